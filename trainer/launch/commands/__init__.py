"""The commands of `mildnet`: thin, each calls one function of a room."""
