"""Tables of a paper anew: rows that are trained and evaluated at one budget."""
