//! What a controller and an apparatus say to each other, and how it is framed.

pub mod frame;
pub mod message;
