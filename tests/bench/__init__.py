"""What the README's figures come from: each beside its floor, from the same run."""
