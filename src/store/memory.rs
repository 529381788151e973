//! The store in memory, for the simulator and the tests: the same contract, with power loss.
