//! A software NVMe subsystem with a TCP front and faults as data: for tests, benches and the quickstart.
