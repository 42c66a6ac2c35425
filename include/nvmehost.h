/* libnvmehost: an NVMe host with multipath heads, as a C library.
 *
 * Generated from ffi/src by `BLESS=1 cargo test -p nvmehost --test header`; not to be edited.
 * What a program may do when, and what fork, exit and dlclose do, is told in ffi/README.md.
 *
 * Rules that hold everywhere, unless a function says otherwise:
 * - A function that returns int returns a negative errno when it fails; nvmeh_last_error() tells on
 *   the same thread what was being done to what. nvmeh_strerror() names the number. A number never
 *   gets another meaning.
 * - Every pointer may be NULL: the answer is -EFAULT, or nothing for what frees.
 * - A handle that was freed is answered with -EBADF. That is best effort: the memory of the last 256
 *   freed objects is kept for it.
 * - An object inside which the library has failed answers -ENOTRECOVERABLE and can only be freed.
 * - In the child of a fork every object of the parent answers -ECHILD.
 * - Structures say their size first; a newer library fills in no more than the program knows.
 * - Times are milliseconds, offsets and lengths are bytes.
 * - The library calls back only from nvmeh_channel_poll(), nvmeh_channel_reap() and
 *   nvmeh_channel_destroy(), on the thread that called them, with no lock held.
 */

#ifndef NVMEHOST_H
#define NVMEHOST_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>


// Major version of the header.
#define NVMEH_VERSION_MAJOR 0

// Minor version of the header.
#define NVMEH_VERSION_MINOR 1

// Patch version of the header.
#define NVMEH_VERSION_PATCH 0

// Options of a host.
#define NVMEH_OPTIONS_HOST 1

// Options of a connection to a controller.
#define NVMEH_OPTIONS_CONTROLLER 2

// Options of a channel.
#define NVMEH_OPTIONS_CHANNEL 3

// A time without end, wherever a time in milliseconds is asked for.
#define NVMEH_FOREVER UINT64_MAX

// The controller was lost and given up.
#define NVMEH_CAUSE_LINK_LOST 1

// The program disconnected the controller.
#define NVMEH_CAUSE_DISCONNECTED 2

// The target deleted or detached the namespace.
#define NVMEH_CAUSE_NAMESPACE_GONE 3

// Where a cause is asked for: link lost and disconnected.
#define NVMEH_CAUSE_DEFAULT 0

// Made, nothing sent yet.
#define NVMEH_CONTROLLER_NEW 0

// In use.
#define NVMEH_CONTROLLER_LIVE 1

// Being taken apart to be brought up again.
#define NVMEH_CONTROLLER_RESETTING 2

// Being brought up, or waiting for the next attempt.
#define NVMEH_CONTROLLER_CONNECTING 3

// Going away.
#define NVMEH_CONTROLLER_DELETING 4

// Gone for good.
#define NVMEH_CONTROLLER_DEAD 5

// A state that this version has no number for.
#define NVMEH_CONTROLLER_OTHER 255

// No data.
#define NVMEH_DATA_NONE 0

// From the controller.
#define NVMEH_DATA_IN 1

// To the controller.
#define NVMEH_DATA_OUT 2

// It has paths, which need not work at the moment.
#define NVMEH_HEAD_LIVE 1

// It has none and will be removed.
#define NVMEH_HEAD_REMOVAL_PENDING 2

// It is being taken apart.
#define NVMEH_HEAD_REMOVING 3

// It is gone.
#define NVMEH_HEAD_GONE 4

// The best way (also what a controller without ANA has).
#define NVMEH_ANA_OPTIMIZED 1

// Works, but another controller may be better.
#define NVMEH_ANA_NON_OPTIMIZED 2

// Does not work for now.
#define NVMEH_ANA_INACCESSIBLE 3

// Will not work again.
#define NVMEH_ANA_PERSISTENT_LOSS 4

// In transition.
#define NVMEH_ANA_CHANGE 15

// What is known of a request's outcome: nothing, although it failed. It would have changed the
// namespace, and was sent on a connection that was lost before the answer came, or was aborted: the
// controller may have executed it, or a part of it, or, if its connection was lost, may still do so.
#define NVMEH_OUTCOME_UNKNOWN 1

// The request's channel was destroyed while a device had the request that does not stop: the device may
// still write to the request's memory, which must be neither used nor freed while the process lives.
#define NVMEH_MEMORY_KEPT 2

// Force unit access: a write is durable when it ends; a read comes from the medium.
#define NVMEH_FUA 1

// A read may be sent down a second path (nvmeh_head_set_hedged_reads()): its data are read into
// memory of the channel's, and copied at the end. Other requests, and heads without hedged reads,
// leave it alone.
#define NVMEH_HEDGE 2

// Read.
#define NVMEH_OP_READ 1

// Write.
#define NVMEH_OP_WRITE 2

// Compare with what is there.
#define NVMEH_OP_COMPARE 3

// Make read as zeroes.
#define NVMEH_OP_WRITE_ZEROES 4

// Not needed any more.
#define NVMEH_OP_DISCARD 5

// Make durable.
#define NVMEH_OP_FLUSH 6

// A controller changed its state: `from`, `to` (NVMEH_CONTROLLER_*).
#define NVMEH_EVENT_CONTROLLER_STATE 1

// A controller was lost, or failed to come up: `text`.
#define NVMEH_EVENT_CONTROLLER_FAILED 2

// Something failed on a controller that goes on all the same: `text`.
#define NVMEH_EVENT_CONTROLLER_TROUBLE 3

// A controller is gone for good: `text`.
#define NVMEH_EVENT_CONTROLLER_REMOVED 4

// A namespace was found for which there was no head.
#define NVMEH_EVENT_HEAD_ADDED 5

// The size of a namespace changed: `value`, in blocks.
#define NVMEH_EVENT_HEAD_RESIZED 6

// A path can be used.
#define NVMEH_EVENT_PATH_UP 7

// A path cannot be used any more.
#define NVMEH_EVENT_PATH_DOWN 8

// The ANA state of a path changed: `from`, `to` (NVMEH_ANA_*).
#define NVMEH_EVENT_ANA_CHANGED 9

// No path of the head can be used.
#define NVMEH_EVENT_HEAD_NO_PATH 10

// The last path left; the head is removed after `value` milliseconds. `cause`.
#define NVMEH_EVENT_REMOVAL_SCHEDULED 11

// The window of a pending removal changed: `value` milliseconds are left.
#define NVMEH_EVENT_REMOVAL_REARMED 12

// A path returned after `value` milliseconds; the head stays.
#define NVMEH_EVENT_REMOVAL_CANCELLED 13

// The head is gone: `cause`; `value` is 1 if a window had been open.
#define NVMEH_EVENT_HEAD_REMOVED 14

// A namespace was found that cannot be used: `nsid`, `text`.
#define NVMEH_EVENT_NAMESPACE_REFUSED 15

// The discovery log of a discovery controller changed.
#define NVMEH_EVENT_DISCOVERY_CHANGED 16

// An asynchronous event that the library does not act on: `value`, dword 0 of the completion.
#define NVMEH_EVENT_ASYNC 17

// `value` events before the next one were dropped, because nobody took them.
#define NVMEH_EVENT_LAGGED 18

// A command was not answered in time: `to` says what is done about it (NVMEH_OVERDUE_*), `value` which
// command: the queue (0: admin) << 16 | its identifier. `text` is the controller's answer to Abort.
#define NVMEH_EVENT_COMMAND_OVERDUE 19

// Writes were in flight on a controller that was lost, and are held until it is certain that it does
// not execute them any more, `value` milliseconds at most.
#define NVMEH_EVENT_FENCING 20

// A lost controller executes nothing any more, writes that were held are sent again. `from`: how that
// is known (NVMEH_FENCED_BY_*); `value`: milliseconds since its end.
#define NVMEH_EVENT_FENCED 21

// A controller was given up, and its device does not stop: it does not answer, or does not obey. What it
// has is kept, and is sent nowhere else, until it has stopped.
#define NVMEH_EVENT_DEVICE_UNSTOPPED 22

// A device of which that was told has stopped: `value`, milliseconds since it was given up.
#define NVMEH_EVENT_DEVICE_STOPPED 23

// One that this version has no number for: `text`.
#define NVMEH_EVENT_OTHER 255

// The controller is asked to abort the command.
#define NVMEH_OVERDUE_ABORTING 1

// The controller answered that.
#define NVMEH_OVERDUE_ANSWERED 2

// The controller is reset.
#define NVMEH_OVERDUE_RESETTING 3

// Another controller of its subsystem has reset it.
#define NVMEH_FENCED_BY_RESET 1

// Its time has passed.
#define NVMEH_FENCED_BY_TIME 2

// The pin belongs to a removal that is pending.
#define NVMEH_PIN_PENDING_REMOVAL 1

// The pin is the program's own.
#define NVMEH_PIN_USER 2

// JSON: one object, with the members of the Rust structure `Snapshot`.
#define NVMEH_SNAPSHOT_JSON 1

// The text format of Prometheus, version 0.0.4.
#define NVMEH_SNAPSHOT_PROMETHEUS 2

// Reads and compares.
#define NVMEH_LATENCY_READS 0

// Everything else.
#define NVMEH_LATENCY_WRITES 1

// The I/O of one thread. Thread: the one that made it, or that nvmeh_channel_adopt() named last; a
// build with debug assertions answers others with -EPERM, a release build does not look.
struct nvmeh_channel;

// A handle of a controller. Freeing it does not disconnect. Thread: any, several at once; what waits
// must not be called while another thread is in nvmeh_host_drive() on a host that the program
// drives.
struct nvmeh_controller;

// A subscription to the events of a host. Thread: any, several at once.
struct nvmeh_events;

// A handle of a head. One that outlives its head answers with errors. Thread: any, several at once.
struct nvmeh_head;

// A host: what a program makes first and shuts down last. Thread: any, several at once.
//
// What outlives what: heads, controllers, channels, events, pins may be freed before or after the
// host, in any order.
struct nvmeh_host;

// Memory that every controller reaches without a copy.
struct nvmeh_memory;

// A set of options, of one of the kinds NVMEH_OPTIONS_*. May be used any number of times; a change
// does not touch what was made with it before. Thread: any, one at a time or several.
struct nvmeh_options;

// A pin of the program's own. Thread: any.
struct nvmeh_pin;

// A subsystem, and one way to reach it, as a discovery controller tells.
struct nvmeh_discovered {
  // sizeof(struct nvmeh_discovered), set by the caller in the first of an array.
  size_t size;
  // Transport type: 1 RDMA, 2 Fibre Channel, 3 TCP.
  uint32_t transport;
  // Address family: 1 IPv4, 2 IPv6.
  uint32_t address_family;
  // Subsystem type: 1 another discovery service, 2 an NVM subsystem, 3 this discovery service.
  uint32_t subsystem_type;
  // Port identifier.
  uint32_t port_id;
  // Controller ID: 0xffff when controllers are made on connection.
  uint32_t controller_id;
  // Always 0.
  uint32_t reserved;
  // NQN of the subsystem.
  char subnqn[224];
  // Transport address.
  char address[260];
  // Transport service: for TCP the port.
  char service[36];
  // The URL for nvmeh_host_connect(); empty for another transport than TCP.
  char url[544];
};

// What a controller says of itself.
struct nvmeh_controller_info {
  // sizeof(struct nvmeh_controller_info), set by the caller; what was filled in, on return.
  size_t size;
  // Bytes of one command at most; 0: no limit told.
  uint64_t max_transfer;
  // Times that it came back after a loss.
  uint64_t reconnects;
  // Controller ID.
  uint32_t cntlid;
  // Version register, such as 0x00020100 for 2.1.
  uint32_t version;
  // Optional NVM commands (ONCS), raw.
  uint32_t oncs;
  // I/O queues granted on this association: so many channels can use it.
  uint32_t io_queues;
  // Entries of each.
  uint32_t io_entries;
  // 1 if the subsystem may have more than one controller.
  uint32_t multi_controller;
  // 1 if the subsystem reports ANA.
  uint32_t ana;
  // 1 if there is a volatile write cache: a flush means something.
  uint32_t volatile_write_cache;
  // Milliseconds for which it may still execute commands after it has noticed the loss of its host
  // (CQT); 0: not reported.
  uint64_t quiesce_ms;
  // Serial number.
  char serial[24];
  // Model number.
  char model[48];
  // Firmware revision.
  char firmware[16];
  // Bytes of the host memory buffer that it has now; 0: none.
  uint64_t host_memory;
  // 1 if it can reset the whole subsystem: nvmeh_controller_subsystem_reset().
  uint32_t subsystem_reset;
  // Always 0.
  uint32_t reserved;
};

// An admin command, and its answer.
struct nvmeh_admin {
  // sizeof(struct nvmeh_admin), set by the caller.
  size_t size;
  // Opcode.
  uint32_t opcode;
  // Namespace ID.
  uint32_t nsid;
  // Command dword 2.
  uint32_t cdw2;
  // Command dword 3.
  uint32_t cdw3;
  // Command dwords 10 to 15.
  uint32_t cdw10[6];
  // NVMEH_DATA_*.
  int direction;
  // Always 0.
  uint32_t reserved;
  // Data, or room for them.
  void *data;
  // Bytes, at most 16 MiB.
  uint64_t data_len;
  // Dwords 0 and 1 of the completion, on return.
  uint64_t result;
  // NVMe status if the controller answered with an error, on return: SCT << 8 | SC. 0 otherwise.
  uint32_t nvme_status;
  // 0, on return.
  uint32_t reserved2;
};

// Size and shape of a namespace, as last reported.
struct nvmeh_geometry {
  // sizeof(struct nvmeh_geometry), set by the caller; what was filled in, on return.
  size_t size;
  // Bytes in a block: every offset and length is a multiple of it.
  uint32_t block_size;
  // 1 if it cannot be written to.
  uint32_t read_only;
  // Bytes of the namespace.
  uint64_t bytes;
  // Bytes that one read, write or compare can move at most.
  uint64_t max_transfer;
  // Bytes of metadata with each block, 0 for none.
  uint32_t metadata_size;
  // 1 if the metadata follows each block's data in the same memory: a block takes block_size +
  // metadata_size bytes there. 0: nvmeh_request.metadata. Offsets do not count it in any case.
  uint32_t extended_metadata;
};

// How a head is doing.
struct nvmeh_head_status {
  // sizeof(struct nvmeh_head_status), set by the caller; what was filled in, on return.
  size_t size;
  // NVMEH_HEAD_*.
  int state;
  // NVMEH_CAUSE_*: why the last path left; 0 while live.
  int cause;
  // Milliseconds since the last path left; 0 while live.
  uint64_t lost_for_ms;
  // Milliseconds until it is removed; NVMEH_FOREVER: it waits without end; 0 if nothing is
  // pending.
  uint64_t remaining_ms;
  // Paths.
  uint32_t paths;
  // Paths on which I/O may be sent.
  uint32_t usable_paths;
};

// A path of a head.
struct nvmeh_path {
  // sizeof(struct nvmeh_path), set by the caller in the first of an array.
  size_t size;
  // The controller's number.
  uint32_t controller;
  // Namespace ID on it.
  uint32_t nsid;
  // NVMEH_ANA_*.
  int ana;
  // 1 if I/O may be sent on it.
  int usable;
  // The controller's address, cut if need be.
  char address[256];
  // Writes that were in flight on its controller when that was lost, and are held until it is
  // fenced.
  uint64_t held;
  // 1 if it is used only when there is no other: nvmeh_controller_set_marginal().
  int marginal;
  // Always 0.
  int reserved;
};

// When a read is sent down a second path, because the first takes too long to answer.
//
// The slow path owns the request's memory until it answers, so the second attempt reads into memory
// of the channel's. Only reads whose data lie in such memory anyway, and are copied at the end, can
// therefore be hedged: those with the flag NVMEH_HEDGE, and those of an iovec with gaps. All others are
// never hedged, nor copied.
struct nvmeh_hedge_options {
  // sizeof(struct nvmeh_hedge_options), set by the caller.
  size_t size;
  // A read is hedged when it outlives this part of the reads of its size class on its channel, 0.5
  // to 0.9999. Nothing is hedged before 128 reads have been seen.
  double percentile;
  // The least time before a read is hedged, in nanoseconds.
  uint64_t min_delay_ns;
  // Second attempts per read, over time, 0 to 1.
  double budget;
  // Second attempts that may be saved up while few are needed, 1 and more.
  double burst;
};

// The end of a request: exactly one for each that was accepted.
struct nvmeh_completion {
  // sizeof(struct nvmeh_completion); set by the caller in the first of an array.
  size_t size;
  // The number that the submission gave.
  uint64_t id;
  // The pointer given with the request.
  void *arg;
  // 0, or a negative errno.
  int result;
  // NVMEH_OUTCOME_*.
  uint32_t flags;
  // NVMe status if a controller answered with an error: SCT << 8 | SC. 0 otherwise.
  uint32_t nvme_status;
  // Always 0.
  uint32_t reserved;
  // Dwords 0 and 1 of the controller's answer, if it succeeded: of use for passthrough.
  uint64_t value;
};

// Called at the end of a request, from within nvmeh_channel_poll(), nvmeh_channel_reap() or
// nvmeh_channel_destroy(), on the thread that called it, with no lock held. It may call any function
// of this library: submit, cancel, poll, close and destroy included. One that blocks holds up its
// own channel and nothing else. `completion` is valid during the call.
typedef void (*nvmeh_callback)(const struct nvmeh_completion *completion, void *arg);

// A request, with everything that one can be told. Members that do not apply are 0.
struct nvmeh_request {
  // sizeof(struct nvmeh_request), set by the caller.
  size_t size;
  // NVMEH_OP_*.
  int op;
  // NVMEH_FUA, NVMEH_HEDGE.
  uint32_t flags;
  // First byte.
  uint64_t offset;
  // Bytes, where there is no memory to say so: write zeroes, discard.
  uint64_t len;
  // Memory: read, write, compare. It need not outlive the call, what it points to must.
  const struct iovec *iov;
  // Its entries.
  int iovcnt;
  // Always 0.
  int reserved;
  // The request is given up so long after its submission, in milliseconds, 0 or NVMEH_FOREVER: never.
  // One that waits (for a path, for room, for a retry, for a fence) then ends with -ETIMEDOUT. One that
  // a controller has is aborted as by nvmeh_channel_cancel(), and is not sent again.
  uint64_t timeout_ms;
  // Called at its end; NULL: nvmeh_channel_reap().
  nvmeh_callback callback;
  // What it is given.
  void *arg;
  // Metadata beside the data, where nvmeh_geometry.extended_metadata is 0 and metadata_size is not:
  // as many bytes as all blocks of the request have together. The library's until the end. Only on PCIe.
  void *metadata;
  // Its bytes; 0: none.
  uint64_t metadata_len;
};

// Something that happened.
struct nvmeh_event {
  // sizeof(struct nvmeh_event), set by the caller; what was filled in, on return.
  size_t size;
  // NVMEH_EVENT_*. Numbers that a program does not know are to be left alone.
  int kind;
  // NVMEH_CAUSE_*, or 0.
  int cause;
  // When, in milliseconds of the host's clock.
  uint64_t at_ms;
  // The controller's number, or -1.
  int64_t controller;
  // nvmeh_head_instance() of the head, or -1.
  int64_t head;
  // Namespace ID, or 0.
  uint32_t nsid;
  // The state before.
  int from;
  // The state after.
  int to;
  // Always 0.
  int reserved;
  // See the kind. NVMEH_FOREVER for a time without end.
  uint64_t value;
  // The controller's address, cut if need be.
  char address[128];
  // The head's name, cut if need be.
  char name[256];
  // Why, in words, cut if need be.
  char text[256];
};

// An I/O command of the program's. The namespace identifier, the command identifier and the data pointer
// are the library's to fill in; there is no metadata, and nothing is fused.
struct nvmeh_passthrough {
  // sizeof(struct nvmeh_passthrough), set by the caller.
  size_t size;
  // Opcode. Its lowest two bits are the direction of the data.
  uint32_t opcode;
  // 1: executing it again has no other effect than executing it once. It is then retried, fails over,
  // and waits for a path like any other request. 0: it goes down one path, once.
  uint32_t idempotent;
  // Command dwords 2 and 3.
  uint32_t cdw2[2];
  // Command dwords 10 to 15. If they speak of a length, `data_len` has to be that long: a controller
  // moves what the command says. Of Read, Write, Compare and Zone Append it is checked.
  uint32_t cdw10[6];
  // Data, or room for them. The library's until the end.
  void *data;
  // Bytes; 0 if it moves nothing.
  uint64_t data_len;
  // As in struct nvmeh_request.
  uint64_t timeout_ms;
  // Called at its end; NULL: nvmeh_channel_reap().
  nvmeh_callback callback;
  // What it is given.
  void *arg;
  // Dwords 0 and 1 of the completion, after nvmeh_execute_passthrough(). Otherwise
  // nvmeh_completion.value has them.
  uint64_t value;
  // NVMe status if the controller answered with an error, after nvmeh_execute_passthrough():
  // SCT << 8 | SC. 0 otherwise.
  uint32_t nvme_status;
  // Always 0.
  uint32_t reserved;
};

// Who holds a pin.
struct nvmeh_pin_holder {
  // sizeof(struct nvmeh_pin_holder), set by the caller in the first of an array.
  size_t size;
  // NVMEH_PIN_*.
  int kind;
  // Always 0.
  int reserved;
  // Since when, in milliseconds of the host's clock.
  uint64_t since_ms;
  // Why, in words, cut if need be.
  char reason[256];
};

// A power state of a controller.
struct nvmeh_power_state {
  // sizeof(struct nvmeh_power_state), set by the caller in the first of an array.
  size_t size;
  // Most power that it takes, in 0.1 mW; 0: not reported.
  uint32_t power;
  // 1 if no I/O is done in this state: the controller leaves it for a command.
  uint32_t non_operational;
  // Longest time to enter it, in microseconds.
  uint64_t entry_us;
  // Longest time to leave it, in microseconds.
  uint64_t exit_us;
};

// What happened to the requests of a head, on all channels, since it was made.
struct nvmeh_head_stats {
  // sizeof(struct nvmeh_head_stats), set by the caller; what was filled in, on return.
  size_t size;
  // Requests that were moved to another path, or parked, after their path failed.
  uint64_t failovers;
  // Requests sent again on account of their status.
  uint64_t retries;
  // Times that a request was parked for want of a path.
  uint64_t parked;
  // Requests that failed for want of a path.
  uint64_t failed_no_path;
  // Times that a write was held until a lost controller was fenced, or behind a held one.
  uint64_t held;
  // Writes that are held now.
  uint64_t held_now;
  // Reads that were sent down a second path because the first took too long.
  uint64_t hedges;
  // Those among them that the second path answered first.
  uint64_t hedges_won;
  // Reads that were not, because the budget was used up.
  uint64_t hedges_denied;
};

// What a channel did since it was made.
struct nvmeh_channel_stats {
  // sizeof(struct nvmeh_channel_stats), set by the caller; what was filled in, on return.
  size_t size;
  // Requests accepted.
  uint64_t submitted;
  // Requests ended.
  uint64_t completed;
  // Of these, without success.
  uint64_t failed;
  // Bytes that were copied because an iovec had gaps, or for NVMEH_HEDGE.
  uint64_t copied_bytes;
};

// A bucket of a latency histogram: an eighth of a power of two wide, so that a time is known to 12 %.
struct nvmeh_latency_bucket {
  // sizeof(struct nvmeh_latency_bucket), set by the caller in the first of an array.
  size_t size;
  // Where it ends, in nanoseconds.
  uint64_t below_ns;
  // Commands that took less, and no less than where the bucket before ends.
  uint64_t count;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library that is running, such as "0.1.0". Never NULL.
//
// Thread: any. Owner: the library.
const char *nvmeh_version(void);

// The version of the library that is running as a number: major << 16 | minor << 8 | patch. To be
// compared with the `NVMEH_VERSION_*` that the program was built with.
//
// Thread: any.
uint32_t nvmeh_version_number(void);

// The text of the last error that a function of this library returned **on this thread**: what was
// being done to what, and why it failed. Never NULL; empty if there was none.
//
// Thread: any. Owner: the library; valid until the next failing call on this thread.
const char *nvmeh_last_error(void);

// The name and meaning of an error number of this library, which is a negative errno. One text
// for each number; a number without a meaning of its own gives a text that says so. Never NULL.
//
// Thread: any. Owner: the library; valid as long as it is loaded.
const char *nvmeh_strerror(int error);

// Makes a set of options with all defaults. `kind`: NVMEH_OPTIONS_*.
//
// Returns 0, -EINVAL (no such kind), -EFAULT. Thread: any. Owner: the caller;
// nvmeh_options_free().
int nvmeh_options_new(int kind, struct nvmeh_options **out);

// Sets an option by name, from a text: a number; "on" or "off"; a time in milliseconds or
// "forever"; an NQN; a UUID.
//
// Host: hostnqn, hostid (default: made up for each host), control_thread (on: the library runs a
// thread; off: call nvmeh_host_drive()), seed, policy (round-robin,
// numa, queue-depth, active-passive, service-time), delayed_removal_ms (both of the next two),
// delayed_removal_link_lost_ms, delayed_removal_disconnected_ms,
// delayed_removal_namespace_gone_ms, fence (auto, strict, off: what becomes of writes that were in
// flight on a lost controller), quirks (what is to be known of certain devices, rules with ; between
// them: VENDOR:DEVICE=QUIRKS or model:MODEL@FIRMWARE=QUIRKS, such as
// "1b36:0010=no-sgl;model:Example Drive*=no-apst,-bogus-ids"), numa_topology (system, or for each node,
// with ; between them, its processors and its distances to all nodes, such as "0-3=10,21;4-7=21,10").
// Controller: keep_alive_ms, reconnect_delay_ms, ctrl_loss_tmo_ms, fast_io_fail_tmo_ms,
// reattach_delay_ms, io_entries, max_io_queues, admin_timeout_ms, connect_timeout_ms,
// marginal (on or off), numa_node (a number, or auto), fence (default: what the host says; auto,
// strict, off), fence_time_ms (a time, or auto), on_timeout_reads, on_timeout_writes,
// on_timeout_admin (abort: abort the command, and reset the controller if that does not end it;
// reset: at once), abort_wait_ms, apst_latency_ms (the controller may go to sleep by itself, into states
// that it leaves within so much time; 0: never), host_memory_bytes (most memory that the controller may
// have of the host's; 0: none).
// Channel: depth, io_timeout_ms, max_retries, max_parked_requests, max_parked_bytes,
// max_parked_age_ms, hedge_buffers, latency_histograms (on or off), numa_node, busy_poll_us (how long
// nvmeh_channel_wait() looks for answers before it sleeps, in microseconds, at most 10,000).
//
// Returns 0; -ENOENT: no such option (nvmeh_last_error() lists those that exist); -EINVAL: the
// value cannot be right, and nothing was changed; -EFAULT, -EBADF. Thread: any.
int nvmeh_options_set(struct nvmeh_options *options,
                      const char *name,
                      const char *value);

// Sets an option that is a number, or a time in milliseconds (NVMEH_FOREVER: without end).
//
// Errors and thread: as nvmeh_options_set().
int nvmeh_options_set_u64(struct nvmeh_options *options, const char *name, uint64_t value);

// Sets an option that is a switch: 0 is off, everything else is on.
//
// Errors and thread: as nvmeh_options_set().
int nvmeh_options_set_bool(struct nvmeh_options *options, const char *name, int value);

// Reads an option as a text, which is cut to `size` bytes, its end included.
//
// Returns the length of the whole text, or -ENOENT, -EFAULT, -EBADF. Thread: any.
int nvmeh_options_get(const struct nvmeh_options *options,
                      const char *name,
                      char *buf,
                      size_t size);

// Frees a set of options. NULL is fine. Thread: any.
void nvmeh_options_free(struct nvmeh_options *options);

// Makes a host. `options`: of NVMEH_OPTIONS_HOST, or NULL for all defaults. Unless told otherwise
// the library runs one thread for each host, which never calls back.
//
// Returns 0, -EFAULT, -EINVAL (options of another kind), -EBADF, -ENFILE. Thread: any. Owner: the
// caller; nvmeh_host_shutdown(), then nvmeh_host_destroy().
int nvmeh_host_new(const struct nvmeh_options *options, struct nvmeh_host **out);

// Begins to connect to the controller at `url`, such as
// "tcp://192.0.2.7:4420/nqn.2026-01.org.example:sub", "vfio://0000:01:00.0", "uio://0000:01:00.0",
// "vfio-user:///run/nvme.sock". Returns at once; nvmeh_controller_wait_ready() waits, events tell.
// `options`: of NVMEH_OPTIONS_CONTROLLER, or NULL. `out` may be NULL.
//
// Returns 0; -EPROTONOSUPPORT: no such scheme (the error lists those that exist); -EINVAL: the URL
// or the options cannot be used; -ESHUTDOWN, -EFAULT, -EBADF, -ECHILD. Thread: any. Owner of the
// handle: the caller; nvmeh_controller_free(), which does not disconnect.
int nvmeh_host_connect(struct nvmeh_host *host,
                       const char *url,
                       const struct nvmeh_options *options,
                       struct nvmeh_controller **out);

// Finds the head of a namespace. `subnqn` may be NULL: of whatever subsystem. Waits for it for at
// most `timeout_ms`, 0: not at all.
//
// Returns 0, -ENOENT (not there), -ETIMEDOUT, -EINVAL (no NQN), -EFAULT, -EBADF, -ECHILD. Thread:
// any. Owner: the caller; nvmeh_head_free().
int nvmeh_host_head(struct nvmeh_host *host,
                    const char *subnqn,
                    uint32_t nsid,
                    uint64_t timeout_ms,
                    struct nvmeh_head **out);

// Lists the heads that are not gone, oldest first: at most `count` handles.
//
// Returns how many there are, or -EFAULT, -EBADF, -ECHILD. Thread: any. Owner of each handle: the
// caller; nvmeh_head_free().
int nvmeh_host_heads(struct nvmeh_host *host, struct nvmeh_head **heads, size_t count);

// Lists the controllers that are not gone for good: at most `count` handles.
//
// Returns how many there are, or -EFAULT, -EBADF, -ECHILD. Thread: any. Owner of each handle: the
// caller; nvmeh_controller_free().
int nvmeh_host_controllers(struct nvmeh_host *host,
                           struct nvmeh_controller **controllers,
                           size_t count);

// Sets how long heads that are made from now on outlive their last path, in milliseconds: 0: not at
// all; NVMEH_FOREVER: without end. `cause`: NVMEH_CAUSE_*, NVMEH_CAUSE_DEFAULT for the first two.
//
// Returns 0, -EINVAL (no such cause), -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_host_set_delayed_removal(struct nvmeh_host *host, int cause, uint64_t ms);

// Reads what nvmeh_host_set_delayed_removal() sets.
//
// Returns 0, -EINVAL, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_host_delayed_removal(const struct nvmeh_host *host, int cause, uint64_t *ms);

// Shuts the host down: disconnects all controllers, removes all heads, ends the library's thread.
// Requests that are under way fail with -ESHUTDOWN when their channel is next polled. The handle
// stays valid, and is to be destroyed.
//
// Returns 0; -EBUSY: pins are out, nothing was done (nvmeh_pin_holders() says who holds them, and so
// does nvmeh_last_error()); -EFAULT, -EBADF, -ECHILD. Blocks for as long as controllers take to say
// goodbye, which is bounded. Thread: any.
int nvmeh_host_shutdown(struct nvmeh_host *host);

// Shuts the host down although pins are out: removals that are pending are carried out, requests
// that wait for a path fail, and it returns when no pin is out any more. Waits for devices to stop, and
// for pins of the program's own, for at most `timeout_ms`.
//
// Returns 0; -EBUSY: the program still holds pins, the rest was done; -ETIMEDOUT: devices have not stopped
// by then, all else was done, and the memory that they reach stays theirs; -EFAULT, -EBADF, -ECHILD.
// Thread: any.
int nvmeh_host_shutdown_forced(struct nvmeh_host *host,
                               uint64_t timeout_ms);

// Gives the handle of a host up. NULL is fine. Without a shutdown before, the host goes on by itself
// until no pin is out and no channel is open, and then ends; one that the program drives ends at
// once. In the child of a fork, nothing but the handle ends.
//
// Thread: any.
void nvmeh_host_destroy(struct nvmeh_host *host);

// Connects to the discovery controller at `url`, reads its log and disconnects: at most `count` entries,
// which lie `out[0].size` bytes apart. Each of these steps may take `timeout_ms`. Entries that make no
// sense (a bad NQN, an address that is no text) are left out.
//
// Returns how many there are; where that is more than `count`, ask again with more room. Or -EPROTO: a
// log that lies, or does not hold still; whatever nvmeh_host_connect() and
// nvmeh_controller_wait_ready() return; -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any, but not
// while another is in nvmeh_host_drive() on a host that the program drives.
int nvmeh_host_discover(struct nvmeh_host *host,
                        const char *url,
                        uint64_t timeout_ms,
                        struct nvmeh_discovered *out,
                        size_t count);

// Waits until the controller is live and its namespaces have been looked at.
//
// Returns 0; -ECONNREFUSED: an attempt failed and it never was live (the library goes on trying all
// the same); -ENODEV: given up; -ETIMEDOUT, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_wait_ready(struct nvmeh_controller *controller, uint64_t timeout_ms);

// Its state, NVMEH_CONTROLLER_*. Or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_state(const struct nvmeh_controller *controller);

// Its number, never reused within a host. Or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_id(const struct nvmeh_controller *controller);

// Its address, such as "tcp://192.0.2.7:4420", cut to `size` bytes.
//
// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_address(const struct nvmeh_controller *controller, char *buf, size_t size);

// The NQN of its subsystem, cut to `size` bytes.
//
// Returns the length of the whole; -ENOTCONN: it never was live; -EFAULT, -EBADF, -ECHILD.
// Thread: any.
int nvmeh_controller_subsystem(const struct nvmeh_controller *controller, char *buf, size_t size);

// Why it was last lost, or failed to come up, cut to `size` bytes; empty if nothing is known.
//
// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_last_error(const struct nvmeh_controller *controller, char *buf, size_t size);

// Disconnects, in an orderly way. Its paths leave with NVMEH_CAUSE_DISCONNECTED. Returns at once: 0,
// or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_disconnect(struct nvmeh_controller *controller);

// Waits until the controller is gone for good.
//
// Returns 0, -ETIMEDOUT, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_wait_removed(struct nvmeh_controller *controller, uint64_t timeout_ms);

// Takes the controller down and brings it up again. I/O goes elsewhere, or waits. `reason` is what
// messages say. Returns at once: 0, or -EFAULT, -EINVAL, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_reset(struct nvmeh_controller *controller, const char *reason);

// Looks at the namespaces again. Returns at once: 0, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_rescan(struct nvmeh_controller *controller);

// Gives a handle up; does not disconnect. NULL is fine. Thread: any.
void nvmeh_controller_free(struct nvmeh_controller *controller);

// What the controller says of itself, as of its latest association.
//
// Returns 0; -ENOTCONN: it never was live; -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_get_info(const struct nvmeh_controller *controller,
                              struct nvmeh_controller_info *out);

// Why it is gone for good, cut to `size` bytes; empty while it is not. With the option
// reattach_delay_ms it may come back all the same.
//
// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_removed(const struct nvmeh_controller *controller, char *buf, size_t size);

// Sends an admin command and waits for its end, at most `timeout_ms`. It is not retried. The caller
// answers for what the command does: nothing here keeps it from changing what the library relies on.
//
// Returns 0; what the NVMe status means (see nvmeh_completion.result), with `nvme_status` set;
// -ENOTCONN: not live; -ENODEV: gone for good; -ETIMEDOUT (the command goes on, and touches nothing of
// the program's); -EMSGSIZE (`data_len`), -EINVAL, -EOPNOTSUPP (a member that this version does not know
// is set), -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_admin(struct nvmeh_controller *controller,
                           struct nvmeh_admin *admin,
                           uint64_t timeout_ms);

// SUBNQN/NSID, cut to `size` bytes.
//
// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_name(const struct nvmeh_head *head, char *buf, size_t size);

// The identifiers that tell the namespace from others, such as "uuid=...", cut to `size` bytes.
//
// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_identifiers(const struct nvmeh_head *head, char *buf, size_t size);

// A number that no other head of the host has had; events name heads by it. Or -EFAULT, -EBADF,
// -ECHILD. Thread: any.
int nvmeh_head_instance(const struct nvmeh_head *head);

// The namespace ID, 1 and more; 0 if `head` is no handle. Thread: any.
uint32_t nvmeh_head_nsid(const struct nvmeh_head *head);

// Size and shape. Kept through the loss of all paths.
//
// Returns 0, -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
int nvmeh_head_geometry(const struct nvmeh_head *head, struct nvmeh_geometry *out);

// How the head is doing: its state, the time left, its paths.
//
// Returns 0, -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
int nvmeh_head_get_status(const struct nvmeh_head *head, struct nvmeh_head_status *out);

// Lists the paths: at most `count` entries, which lie `paths[0].size` bytes apart.
//
// Returns how many there are, or -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
int nvmeh_head_paths(const struct nvmeh_head *head, struct nvmeh_path *paths, size_t count);

// While set (not 0), requests fail at once when no path can be used, those that wait too, whatever
// the windows say. Reconnecting goes on.
//
// Returns 0, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_set_fail_if_no_path(struct nvmeh_head *head, int fail);

// Gives a handle up; the head stays. NULL is fine. Requests under way need no handle. Thread: any.
void nvmeh_head_free(struct nvmeh_head *head);

// Sets how channels choose among the paths of heads for which nothing else is set: "round-robin",
// "numa", "queue-depth", "active-passive" or "service-time". In effect with the next request.
//
// Returns 0, -EINVAL (no such policy; the error lists those that exist), -EFAULT, -EBADF, -ECHILD.
// Thread: any.
int nvmeh_host_set_policy(struct nvmeh_host *host, const char *policy);

// The same for the heads of one subsystem that have no policy of their own, those that are yet to come
// included. `policy` NULL: what the host says.
//
// Errors and thread: as nvmeh_host_set_policy(); -EINVAL also: no NQN.
int nvmeh_host_set_subsystem_policy(struct nvmeh_host *host,
                                    const char *subnqn,
                                    const char *policy);

// The same for one head. `policy` NULL: what its subsystem or the host say.
//
// Errors and thread: as nvmeh_host_set_policy().
int nvmeh_head_set_policy(struct nvmeh_head *head, const char *policy);

// The policy that is in effect for a head, cut to `size` bytes.
//
// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_policy(const struct nvmeh_head *head, char *buf, size_t size);

// Names the path that "active-passive" uses while it is usable and no other is better by its ANA
// state, by the number of its controller, which need not be there; -1: the one that was found first.
//
// Returns 0, -EINVAL (no such number), -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_set_preferred_path(struct nvmeh_head *head,
                                  int64_t controller);

// Marks the paths of a controller as marginal (not 0), or takes the mark off: they are used only when a
// head has no other path, whatever the policy. The mark stays through reconnects.
//
// Returns 0, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_set_marginal(struct nvmeh_controller *controller,
                                  int marginal);

// Whether its paths are marked as marginal: 1 or 0. Or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_is_marginal(const struct nvmeh_controller *controller);

// Fills in the defaults: 0.99, 100 µs, 0.05, 128.
//
// Returns 0, -EFAULT, -EINVAL (`size`). Thread: any.
int nvmeh_hedge_options_init(struct nvmeh_hedge_options *options);

// Sends reads of this head that take too long down a second path, too; `options` NULL: not (the
// default). For each channel by itself, from its next request on. Values out of range are taken to the
// end of it. Counted in struct nvmeh_head_stats.
//
// Returns 0, -EFAULT, -EINVAL (`size`), -EOPNOTSUPP (a member that this version does not know is set),
// -EBADF, -ECHILD. Thread: any.
int nvmeh_head_set_hedged_reads(struct nvmeh_head *head,
                                const struct nvmeh_hedge_options *options);

// Sets what becomes of writes of this head that were in flight on a path that is lost: "strict": they
// are held until the lost controller is known to execute nothing any more; "off": they are sent again
// at once; "auto": held if that controller reported what it needs; NULL: what the controller's or the
// host's options say. Applies to losses from now on.
//
// Returns 0, -EINVAL (none of these), -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_set_fence(struct nvmeh_head *head,
                         const char *fence);

// What nvmeh_head_set_fence() set, cut to `size` bytes; empty if nothing.
//
// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_fence(const struct nvmeh_head *head, char *buf, size_t size);

// Makes a channel. `options`: of NVMEH_OPTIONS_CHANNEL, or NULL. It belongs to this thread.
//
// Returns 0, -EFAULT, -EINVAL (options of another kind), -ENFILE, -ESHUTDOWN, -EBADF, -ECHILD.
// Thread: any. Owner: the caller; nvmeh_channel_destroy(), before or after the host.
int nvmeh_channel_new(struct nvmeh_host *host,
                      const struct nvmeh_options *options,
                      struct nvmeh_channel **out);

// Makes the channel this thread's. The thread that had it must not be in it, and its use must have
// happened before (a lock, a join).
//
// Returns 0, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_channel_adopt(struct nvmeh_channel *channel);

// The descriptor to wait on for reading, in epoll, poll or any event loop, after
// nvmeh_channel_arm() returned 1. It is the same for the life of the channel. Not to be read or
// closed.
//
// Returns the descriptor, or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
int nvmeh_channel_fd(struct nvmeh_channel *channel);

// Gets ready to sleep: sends what was submitted and sets the channel's timer.
//
// Returns 1: sleep on nvmeh_channel_fd() until it is readable, then poll; 0: poll now, there is
// something to do already; or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
int nvmeh_channel_arm(struct nvmeh_channel *channel);

// Sleeps until polling is worth while, for at most `timeout_ms`. For programs without an event loop.
//
// Returns 0, -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
int nvmeh_channel_wait(struct nvmeh_channel *channel,
                       uint64_t timeout_ms);

// Makes progress: sends, receives, and calls back for at most `max` requests that have ended (0: for
// all). Never blocks. Requests without a callback are kept for nvmeh_channel_reap().
//
// Returns how many were called back for, or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread:
// the channel's; from within a callback, too.
int nvmeh_channel_poll(struct nvmeh_channel *channel,
                       uint32_t max);

// Makes progress as nvmeh_channel_poll() does, callbacks included, and takes at most `count` requests
// out that ended and have no callback. The entries lie `out[0].size` bytes apart.
//
// Returns how many were taken out, or -ESHUTDOWN, -EPERM, -EFAULT, -EINVAL (`size`), -EBADF,
// -ECHILD. Thread: the channel's.
int nvmeh_channel_reap(struct nvmeh_channel *channel,
                       struct nvmeh_completion *out,
                       size_t count);

// Sends what was submitted, without polling. nvmeh_channel_poll() and nvmeh_channel_arm() do it,
// too. (The NVMe command is nvmeh_submit_flush().)
//
// Returns 0, -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
int nvmeh_channel_kick(struct nvmeh_channel *channel);

// Cancels one request. One that waits (for a path, for room, for a retry) ends with -ECANCELED at
// the next poll. One that a controller has is aborted (not where the options on_timeout_reads and
// on_timeout_writes say reset). It is given back when its answer comes or its connection is gone, and
// not before: its memory may be in use. If the controller has aborted it, that is -ECANCELED; if it had
// done it, or does not abort, its own answer. It is not sent again. A write that was cancelled while its
// outcome was open, or was aborted, says so: NVMEH_OUTCOME_UNKNOWN.
//
// Returns 1: it will end as told; 0: it has ended already, or was cancelled before; or -ESHUTDOWN,
// -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's; from within a callback, too.
int nvmeh_channel_cancel(struct nvmeh_channel *channel,
                         uint64_t id);

// Cancels all requests, as nvmeh_channel_cancel() does one.
//
// Returns how many, or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
int nvmeh_channel_cancel_all(struct nvmeh_channel *channel);

// Requests under way: submitted, and not called back for nor reaped.
//
// Returns the number, or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
int nvmeh_channel_in_flight(struct nvmeh_channel *channel);

// Requests that wait for a path. Returns and thread: as nvmeh_channel_in_flight().
int nvmeh_channel_parked(struct nvmeh_channel *channel);

// Writes that are held: until a controller that was lost with them is certain not to execute them any
// more, or until a held write to the same blocks has ended (the option `fence`). Returns and thread: as
// nvmeh_channel_in_flight().
int nvmeh_channel_held(struct nvmeh_channel *channel);

// Closes a channel. Requests under way are called back for with -ECANCELED before it returns, those
// that write with NVMEH_OUTCOME_UNKNOWN; when it returns, nothing touches their memory any more, but
// for those with NVMEH_MEMORY_KEPT.
// Requests without a callback are not told of. From within a callback of the channel it closes it
// and returns; the rest is called back for when that callback has returned. NULL is fine.
//
// What a controller on a PCI bus has is cancelled first, as by nvmeh_channel_cancel_all(), and waited
// for: until it has been aborted, or the controller has been reset, which it is after io_timeout. It
// may end as it would have without that. For a device that does not stop then, this waits no longer than
// five seconds: what it has is called back for with NVMEH_MEMORY_KEPT, and its memory stays the device's.
// Otherwise this does not block.
//
// Thread: the channel's (a debug build leaves it alone on another, and says so by
// nvmeh_last_error()). In the child of a fork nothing but the handle ends.
void nvmeh_channel_destroy(struct nvmeh_channel *channel);

// Reads `len` bytes at byte `offset` into `buf`. It may stay in a batch until the channel is polled,
// armed or kicked. `callback` is called with `arg` at the end; NULL: the end is taken out by
// nvmeh_channel_reap(). `id`, unless NULL, is set to a number by which the request can be cancelled.
// The memory is the library's until the end.
//
// Returns 0; -EAGAIN: the channel is full, poll and try again; -EINVAL: no length, or offset or length
// no multiple of the block size, or a flag that does not exist; -ERANGE: not inside the namespace;
// -EMSGSIZE: more than one request can move (nvmeh_head_geometry()); -EROFS, -EOPNOTSUPP (metadata
// beside the data is missing, or not wanted), -EXDEV (a head of another host), -EOVERFLOW (lengths of
// an iovec), -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD: nothing was submitted. Whatever goes wrong
// later is told by the completion.
// Thread: the channel's; from within a callback, too.
int nvmeh_submit_read(struct nvmeh_channel *channel,
                      const struct nvmeh_head *head,
                      void *buf,
                      size_t len,
                      uint64_t offset,
                      uint32_t flags,
                      nvmeh_callback callback,
                      void *arg,
                      uint64_t *id);

// The same with memory in pieces. `iov` itself may be gone when the call returns. Pieces that follow
// each other in memory are used as they are, others are copied.
//
// Errors: as nvmeh_submit_read(); -EINVAL also: not 1 to 1,024 pieces. Thread: the channel's.
int nvmeh_submit_readv(struct nvmeh_channel *channel,
                       const struct nvmeh_head *head,
                       const struct iovec *iov,
                       int iovcnt,
                       uint64_t offset,
                       uint32_t flags,
                       nvmeh_callback callback,
                       void *arg,
                       uint64_t *id);

// Reads `len` bytes at byte `offset` into `buf`, and waits for the end. Other requests of the
// channel go on meanwhile; they are called back for by the next poll.
//
// Returns 0, what nvmeh_submit_read() returns, or the result of a completion. Thread: the channel's;
// from within a callback, too.
int nvmeh_read(struct nvmeh_channel *channel,
               const struct nvmeh_head *head,
               void *buf,
               size_t len,
               uint64_t offset,
               uint32_t flags);

// The same with memory in pieces.
//
// Errors and thread: as nvmeh_read().
int nvmeh_readv(struct nvmeh_channel *channel,
                const struct nvmeh_head *head,
                const struct iovec *iov,
                int iovcnt,
                uint64_t offset,
                uint32_t flags);

// Writes `len` bytes from `buf` to byte `offset`. It may stay in a batch until the channel is
// polled, armed or kicked. `callback` is called with `arg` at the end; NULL: the end is taken out by
// nvmeh_channel_reap(). `id`, unless NULL, is set to a number by which the request can be cancelled.
// The memory is the library's until the end.
//
// Errors and thread: as nvmeh_submit_read().
int nvmeh_submit_write(struct nvmeh_channel *channel,
                       const struct nvmeh_head *head,
                       const void *buf,
                       size_t len,
                       uint64_t offset,
                       uint32_t flags,
                       nvmeh_callback callback,
                       void *arg,
                       uint64_t *id);

// The same with memory in pieces. `iov` itself may be gone when the call returns. Pieces that follow
// each other in memory are used as they are, others are copied.
//
// Errors: as nvmeh_submit_read(); -EINVAL also: not 1 to 1,024 pieces. Thread: the channel's.
int nvmeh_submit_writev(struct nvmeh_channel *channel,
                        const struct nvmeh_head *head,
                        const struct iovec *iov,
                        int iovcnt,
                        uint64_t offset,
                        uint32_t flags,
                        nvmeh_callback callback,
                        void *arg,
                        uint64_t *id);

// Writes `len` bytes from `buf` to byte `offset`, and waits for the end. Other requests of the
// channel go on meanwhile; they are called back for by the next poll.
//
// Returns 0, what nvmeh_submit_read() returns, or the result of a completion. Thread: the channel's;
// from within a callback, too.
int nvmeh_write(struct nvmeh_channel *channel,
                const struct nvmeh_head *head,
                const void *buf,
                size_t len,
                uint64_t offset,
                uint32_t flags);

// The same with memory in pieces.
//
// Errors and thread: as nvmeh_write().
int nvmeh_writev(struct nvmeh_channel *channel,
                 const struct nvmeh_head *head,
                 const struct iovec *iov,
                 int iovcnt,
                 uint64_t offset,
                 uint32_t flags);

// Compares `len` bytes at byte `offset` with those in `buf`; -EILSEQ if they differ. It may stay in
// a batch until the channel is polled, armed or kicked. `callback` is called with `arg` at the end;
// NULL: the end is taken out by nvmeh_channel_reap(). `id`, unless NULL, is set to a number by which
// the request can be cancelled. The memory is the library's until the end.
//
// Errors and thread: as nvmeh_submit_read().
int nvmeh_submit_compare(struct nvmeh_channel *channel,
                         const struct nvmeh_head *head,
                         const void *buf,
                         size_t len,
                         uint64_t offset,
                         uint32_t flags,
                         nvmeh_callback callback,
                         void *arg,
                         uint64_t *id);

// The same with memory in pieces. `iov` itself may be gone when the call returns. Pieces that follow
// each other in memory are used as they are, others are copied.
//
// Errors: as nvmeh_submit_read(); -EINVAL also: not 1 to 1,024 pieces. Thread: the channel's.
int nvmeh_submit_comparev(struct nvmeh_channel *channel,
                          const struct nvmeh_head *head,
                          const struct iovec *iov,
                          int iovcnt,
                          uint64_t offset,
                          uint32_t flags,
                          nvmeh_callback callback,
                          void *arg,
                          uint64_t *id);

// Compares `len` bytes at byte `offset` with those in `buf`; -EILSEQ if they differ, and waits for
// the end. Other requests of the channel go on meanwhile; they are called back for by the next poll.
//
// Returns 0, what nvmeh_submit_read() returns, or the result of a completion. Thread: the channel's;
// from within a callback, too.
int nvmeh_compare(struct nvmeh_channel *channel,
                  const struct nvmeh_head *head,
                  const void *buf,
                  size_t len,
                  uint64_t offset,
                  uint32_t flags);

// The same with memory in pieces.
//
// Errors and thread: as nvmeh_compare().
int nvmeh_comparev(struct nvmeh_channel *channel,
                   const struct nvmeh_head *head,
                   const struct iovec *iov,
                   int iovcnt,
                   uint64_t offset,
                   uint32_t flags);

// Makes `len` bytes at byte `offset` read as zeroes, without sending them; at most 65,536 blocks.
// `callback`, `arg` and `id` as in nvmeh_submit_read().
//
// Errors and thread: as nvmeh_submit_read().
int nvmeh_submit_write_zeroes(struct nvmeh_channel *channel,
                              const struct nvmeh_head *head,
                              uint64_t offset,
                              uint64_t len,
                              uint32_t flags,
                              nvmeh_callback callback,
                              void *arg,
                              uint64_t *id);

// Makes `len` bytes at byte `offset` read as zeroes, without sending them; at most 65,536 blocks,
// and waits for the end.
//
// Errors and thread: as nvmeh_read().
int nvmeh_write_zeroes(struct nvmeh_channel *channel,
                       const struct nvmeh_head *head,
                       uint64_t offset,
                       uint64_t len,
                       uint32_t flags);

// Tells the controller that `len` bytes at byte `offset` are not needed any more (Dataset
// Management, Deallocate); what they read as afterwards is the controller's to say. `callback`,
// `arg` and `id` as in nvmeh_submit_read().
//
// Errors and thread: as nvmeh_submit_read().
int nvmeh_submit_discard(struct nvmeh_channel *channel,
                         const struct nvmeh_head *head,
                         uint64_t offset,
                         uint64_t len,
                         nvmeh_callback callback,
                         void *arg,
                         uint64_t *id);

// Tells the controller that `len` bytes at byte `offset` are not needed any more (Dataset
// Management, Deallocate); what they read as afterwards is the controller's to say, and waits for
// the end.
//
// Errors and thread: as nvmeh_read().
int nvmeh_discard(struct nvmeh_channel *channel,
                  const struct nvmeh_head *head,
                  uint64_t offset,
                  uint64_t len);

// Makes what was written before, and has ended, durable. `callback`, `arg` and `id` as in
// nvmeh_submit_read().
//
// Errors and thread: as nvmeh_submit_read().
int nvmeh_submit_flush(struct nvmeh_channel *channel,
                       const struct nvmeh_head *head,
                       nvmeh_callback callback,
                       void *arg,
                       uint64_t *id);

// Makes what was written before, and has ended, durable, and waits for the end.
//
// Errors and thread: as nvmeh_read().
int nvmeh_flush(struct nvmeh_channel *channel, const struct nvmeh_head *head);

// Submits a request. `id` as in nvmeh_submit_read().
//
// Errors and thread: as nvmeh_submit_read(); -EINVAL also: no such operation, or `size`; -EOPNOTSUPP
// also: a member that this version does not know is set.
int nvmeh_submit(struct nvmeh_channel *channel,
                 const struct nvmeh_head *head,
                 const struct nvmeh_request *request,
                 uint64_t *id);

// Submits a request, and waits for its end. Callback and argument are not used.
//
// Returns 0, what nvmeh_submit() returns, or the result of a completion. Thread: the channel's; from
// within a callback, too.
int nvmeh_execute(struct nvmeh_channel *channel,
                  const struct nvmeh_head *head,
                  const struct nvmeh_request *request);

// Subscribes to the events of a host from now on. At most `capacity` wait; when there are more the
// oldest are dropped, and NVMEH_EVENT_LAGGED says how many.
//
// Returns 0, -EFAULT, -EBADF, -ECHILD. Thread: any. Owner: the caller; nvmeh_events_free(), before or
// after the host.
int nvmeh_events_new(struct nvmeh_host *host,
                     size_t capacity,
                     struct nvmeh_events **out);

// A descriptor that is readable while events wait, for any event loop. Not to be read or closed.
//
// Returns it, or -ENFILE, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_events_fd(struct nvmeh_events *events);

// Takes the next event, waited for at most `timeout_ms`; 0: does not wait.
//
// Returns 1: there was one; 0: there was none; -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread:
// any.
int nvmeh_events_next(struct nvmeh_events *events, uint64_t timeout_ms, struct nvmeh_event *out);

// Ends a subscription. NULL is fine. Thread: any; nobody may be waiting in it.
void nvmeh_events_free(struct nvmeh_events *events);

// Allocates `size` bytes that all controllers of this host, present and future, reach without a
// copy. To be used again and again; what it holds is left from earlier use. TCP takes any memory
// equally well.
//
// Returns 0, -EINVAL (size 0), -ENFILE (no memory, or RLIMIT_MEMLOCK too small), -EFAULT, -EBADF,
// -ECHILD. Thread: any. Owner: the caller; nvmeh_memory_free(), before or after the host.
int nvmeh_memory_new(struct nvmeh_host *host, size_t size, struct nvmeh_memory **out);

// Makes memory of the program's reachable without a copy, for all controllers of this host, present and
// future. For devices it must begin and end on a page of 4 KiB; where it does not, data in it is copied.
// It must stay until nvmeh_memory_unregister() has returned 0.
//
// Returns 0, -EINVAL (size 0), -ENFILE (RLIMIT_MEMLOCK too small), -EFAULT, -EBADF, -ECHILD. Thread: any.
// Owner of the handle: the caller; nvmeh_memory_unregister(), then nvmeh_memory_free().
int nvmeh_memory_register(struct nvmeh_host *host,
                          void *data,
                          size_t size,
                          struct nvmeh_memory **out);

// Ends the registration of memory of the program's, and waits until no device reaches it any more, at
// most `timeout_ms`. No request that uses it may be under way.
//
// Returns 0: the memory may be freed; -ETIMEDOUT: not yet, to be called again; -EINVAL: it was made by
// nvmeh_memory_new(); -EFAULT, -EBADF, -ECHILD. Thread: any, one at a time.
int nvmeh_memory_unregister(struct nvmeh_memory *memory,
                            uint64_t timeout_ms);

// The address of the memory, a multiple of 64; NULL if `memory` is no handle. Thread: any.
void *nvmeh_memory_data(const struct nvmeh_memory *memory);

// The bytes of the memory; 0 if `memory` is no handle. Thread: any.
size_t nvmeh_memory_size(const struct nvmeh_memory *memory);

// Frees memory of the library's, or the handle of memory of the program's. No request that uses it may be
// under way. NULL is fine. Thread: any.
void nvmeh_memory_free(struct nvmeh_memory *memory);

// Runs the control plane of a host that was made with control_thread off: for at most `timeout_ms`,
// or until something was done. To be called again and again, from one thread at a time; it calls
// nothing back.
//
// Returns 1: call again; 0: the host has ended; -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_host_drive(struct nvmeh_host *host, uint64_t timeout_ms);

// How long a host that was made with control_thread off may be left alone: nvmeh_host_drive() has
// something to do after `ms` milliseconds, 0: at once, NVMEH_FOREVER: not before somebody asks for
// something. A peer may say something at any time: a program that sleeps longer than a few milliseconds
// learns of it so much later.
//
// Returns 0; NVMEH_FOREVER if the library runs a thread; -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_host_deadline(const struct nvmeh_host *host,
                        uint64_t *ms);

// Begins what nvmeh_host_shutdown() does, or with `force` (not 0) what nvmeh_host_shutdown_forced() does,
// and returns at once. For hosts that the program drives: the end is there when nvmeh_host_drive() returns
// 0.
//
// Returns 0; -EBUSY: pins are out and `force` is 0, nothing was done; -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_host_begin_shutdown(struct nvmeh_host *host,
                              int force);

// Hands in an I/O command as it is, to be sent down one of the head's paths. `id` as in
// nvmeh_submit_read(). It ends like any request; nvmeh_completion.value is what the controller answered.
//
// One that is not idempotent fails without a path (-EHOSTUNREACH), fails with each status that is no
// success, and with -EIO and NVMEH_OUTCOME_UNKNOWN if its connection is lost before the answer. The caller
// answers for what the command does.
//
// Returns 0; -EINVAL: `opcode` is none of an I/O command, or `data_len` does not fit it; otherwise as
// nvmeh_submit(). Thread: the channel's; from within a callback, too.
int nvmeh_submit_passthrough(struct nvmeh_channel *channel,
                             const struct nvmeh_head *head,
                             const struct nvmeh_passthrough *command,
                             uint64_t *id);

// Hands in an I/O command as nvmeh_submit_passthrough() does, and waits for its end. `value` and
// `nvme_status` are set. Callback and argument are not used.
//
// Returns 0, what nvmeh_submit_passthrough() returns, or the result of a completion. Thread: the
// channel's; from within a callback, too.
int nvmeh_execute_passthrough(struct nvmeh_channel *channel,
                              const struct nvmeh_head *head,
                              struct nvmeh_passthrough *command);

// Pins that are out: one for each removal that is pending, and those of the program.
//
// Returns the number, or -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_pin_count(const struct nvmeh_host *host);

// The most pins that were ever out at once. Returns and thread: as nvmeh_pin_count().
int nvmeh_pin_peak(const struct nvmeh_host *host);

// Takes a pin: until nvmeh_pin_release() the host cannot be shut down, unless by force, and the
// shared object stays loaded, although the program may dlclose() it. `reason` is what holders
// are listed by.
//
// Returns 0, -ESHUTDOWN, -EFAULT, -EINVAL, -EBADF, -ECHILD. Thread: any. Owner: the caller.
int nvmeh_pin_take(struct nvmeh_host *host, const char *reason, struct nvmeh_pin **out);

// Lists who holds pins: at most `count` entries of `holders`, which lie `holders[0].size` bytes
// apart. `holders` may be NULL if `count` is 0.
//
// Returns how many holders there are, or -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
int nvmeh_pin_holders(const struct nvmeh_host *host,
                      struct nvmeh_pin_holder *holders,
                      size_t count);

// Gives a pin back. NULL is fine. This is the one function that may be called by a program that has
// given up every reference of its own to the shared object: if the pin was the last, the object is
// unmapped when the call returns. (The processor jumps from here to dlclose(), which returns to the
// program.)
//
// Thread: any.
void nvmeh_pin_release(struct nvmeh_pin *pin);

// Lists the power states, the first is number 0: at most `count` entries, which lie `states[0].size`
// bytes apart.
//
// Returns how many there are; -ENOTCONN: it never was live; -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD.
// Thread: any.
int nvmeh_controller_power_states(const struct nvmeh_controller *controller,
                                  struct nvmeh_power_state *states,
                                  size_t count);

// Asks for the power state that the controller is in, at most `timeout_ms`.
//
// Returns the state's number, 0 to 31; what the NVMe status means (see nvmeh_completion.result) if it
// refuses; -ENOTCONN: not live; -ENODEV: gone for good; -ETIMEDOUT, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_power_state(struct nvmeh_controller *controller,
                                 uint64_t timeout_ms);

// Puts the controller into power state `state`, 0 to 31, waiting at most `timeout_ms`. It comes back from
// a reset in the state that it chooses itself, and with the option apst_latency_ms leaves this one when it
// is idle.
//
// Returns 0; -EINVAL (`state`); errors and thread otherwise as nvmeh_controller_power_state().
int nvmeh_controller_set_power_state(struct nvmeh_controller *controller,
                                     uint32_t state,
                                     uint64_t timeout_ms);

// Resets the whole subsystem, and with it all its controllers, those of other hosts included. They are
// brought up again as after any loss; I/O waits. `reason` is what the events say. Returns at once.
//
// Returns 0; -EOPNOTSUPP: the controller cannot do that, which is so over fabrics; -ENOTCONN: not live;
// -EINVAL, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_subsystem_reset(struct nvmeh_controller *controller,
                                     const char *reason);

// Sets how long this head outlives its last path, in milliseconds: 0: not at all; NVMEH_FOREVER:
// without end. A removal that is pending is counted anew from the moment of the loss; if it is over
// by the new count, the head is removed now. `cause`: as in nvmeh_host_set_delayed_removal().
//
// Returns 0, -EINVAL (no such cause), -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_set_delayed_removal(struct nvmeh_head *head, int cause, uint64_t ms);

// Reads what nvmeh_head_set_delayed_removal() sets.
//
// Returns 0, -EINVAL, -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_delayed_removal(const struct nvmeh_head *head, int cause, uint64_t *ms);

// Cancels a removal that is pending: the head then waits for a path without end, pinned, until one
// returns, nvmeh_head_remove_now(), a change of its windows, or a forced shutdown.
//
// Returns 1: one was pending; 0: none was; -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_cancel_removal(struct nvmeh_head *head);

// Removes a head whose removal is pending now.
//
// Returns 1: one was pending; 0: none was, nothing was done; -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_remove_now(struct nvmeh_head *head);

// As nvmeh_head_set_delayed_removal(), but a removal that is pending keeps its time, as on Linux.
//
// Returns 0, -EINVAL (no such cause), -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_head_set_next_delayed_removal(struct nvmeh_head *head, int cause, uint64_t ms);

// How everything is at the moment, as a text: controllers, heads, paths, counts, latencies, pins.
// `format`: NVMEH_SNAPSHOT_*. Cut to `size` bytes, its end included; a text that was cut is of no use:
// call again with more room than the answer says, since the next one may be longer. Meant for a look every
// so often, a hundred times a second at most; takes no lock that I/O waits for.
//
// Returns the length of the whole text; -EINVAL: no such format; -EFAULT, -EBADF, -ECHILD. Thread: any.
int nvmeh_host_snapshot(const struct nvmeh_host *host,
                        int format,
                        char *buf,
                        size_t size);

// The counters of a head.
//
// Returns 0, -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
int nvmeh_head_get_stats(const struct nvmeh_head *head, struct nvmeh_head_stats *out);

// The counters of a channel.
//
// Returns 0, -EFAULT, -EINVAL (`size`), -EPERM, -EBADF, -ECHILD. Thread: the channel's.
int nvmeh_channel_get_stats(const struct nvmeh_channel *channel, struct nvmeh_channel_stats *out);

// How long I/O took on a controller, as far as it came from channels with the option
// latency_histograms: at most `count` buckets that are not empty, the shortest time first, which
// lie `buckets[0].size` bytes apart. `direction`: NVMEH_LATENCY_*. Counts since the controller was
// connected, through reconnects.
//
// Returns how many buckets are not empty, or -EFAULT, -EINVAL (`direction`, `size`), -EBADF, -ECHILD.
// Thread: any.
int nvmeh_controller_latency(const struct nvmeh_controller *controller,
                             int direction,
                             struct nvmeh_latency_bucket *buckets,
                             size_t count);

// A time in nanoseconds that `fraction` (0 to 1) of the commands of nvmeh_controller_latency() did not
// exceed; 0 when none was counted.
//
// Returns 0, -EFAULT, -EINVAL (`direction`), -EBADF, -ECHILD. Thread: any.
int nvmeh_controller_latency_quantile(const struct nvmeh_controller *controller,
                                      int direction,
                                      double fraction,
                                      uint64_t *ns);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NVMEHOST_H */
