//! NVMe over PCIe: the room is reserved, the transport is not built yet.
