//! A controller that has fewer queues than it grants is used with those.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nvme_core::buffer::Buffer;
use nvme_mpath::{Event, IoError, IoRequest};
use nvme_pci_bed::{Bed, LIMIT, channel, connect, finish, pattern, persistent, verify};
use nvme_target::PciFault;

#[test]
fn what_cannot_be_created_is_done_without() {
    for fault in [PciFault::FewerCompletionQueues(2), PciFault::FewerSubmissionQueues(2)] {
        let mut bed = Bed::new(512);
        let device = bed.device("a");
        device.add_fault(fault);
        let host = bed.host();
        let events = host.events(100);
        let (controller, head) = connect(&host, "mem://a", persistent());
        let mut channels = [channel(&host), channel(&host), channel(&host)];
        let mut without = 0;
        for (n, channel) in channels.iter_mut().enumerate() {
            channel.submit(&head, IoRequest::read(0, Buffer::zeroed(4096), n as u64)).unwrap();
            match finish(channel, 1).remove(0).result {
                Ok(()) => verify(channel, &head, 8, pattern(8, 4096, n as u64)),
                Err(error) => {
                    assert!(matches!(*error, IoError::NoQueue { granted: 2, .. }), "{error}");
                    without += 1;
                }
            }
        }
        assert_eq!((without, controller.reconnects()), (1, 0), "{fault:?}");
        let said = std::iter::from_fn(|| events.try_next()).any(|event| match event.event {
            Event::ControllerTrouble { error, .. } => error.to_string().contains("Create I/O"),
            _ => false,
        });
        assert!(said, "nobody was told");
        // What the driver had made for the third is not reached by the device, and is freed.
        assert_eq!(device.stats().dma_errors, 0);
        // Without the fault, and after a reset, there are as many as were granted.
        device.clear_faults();
        let before = controller.reconnects();
        controller.reset("a test");
        nvme_pci_bed::wait_until("the way back", || controller.reconnects() > before);
        let mut late = channel(&host);
        verify(&mut late, &head, 8, pattern(8, 4096, 9));
        host.shutdown_forced(LIMIT).unwrap();
    }
}
