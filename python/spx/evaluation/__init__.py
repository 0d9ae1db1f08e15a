"""How good a trained model is: its bits per dimension, and what its drawings look like."""
