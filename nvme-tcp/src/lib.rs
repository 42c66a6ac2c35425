//! NVMe over TCP: a connection core without sockets and a thin shell around it.
