pub use std::time::Duration as _D;
