//! The control socket: the apparatus side (`server`) and the links of a controller or client (`client`).
