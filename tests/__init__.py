"""The tests: one file per module, the stand-ins beside them."""
