"""`./nanoclaw.sh demo`: a scripted conversation through everything real, with stand-ins for WhatsApp and the model."""
