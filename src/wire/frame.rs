//! Length-prefixed RON frames.
