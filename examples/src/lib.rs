//! The quickstart and the nvmeh tool.
