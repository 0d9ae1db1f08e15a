"""A network, written once: a walk is a function of `net`. Its words (`language`) are read as shapes, a graph and a torch module."""
