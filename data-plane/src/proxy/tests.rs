//! Whole exchanges over real sockets.
