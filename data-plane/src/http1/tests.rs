//! Laws and tables of the codec.
