//! FUSE: the only folder that knows fuser. Translates requests to `data` and its answers back.
