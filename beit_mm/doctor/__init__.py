"""The doctor: whether a machine computes right, how fast it is, and which settings suit a config there."""
