/* What C can do beyond heads and I/O: snapshots, commands of its own, power states, driving a host, metadata,
 * and the abort of what is cancelled. beyond URL. Namespace 1 has blocks of 4096 bytes, namespace 2 has 8
 * bytes of metadata after each; compares are not answered. */
#define _POSIX_C_SOURCE 200809L
#include "must.h"

#include <errno.h>

static const char *url;
static struct nvmeh_host *host;
static struct nvmeh_controller *controller;
static struct nvmeh_head *head, *extended;
static struct nvmeh_channel *channel;
static unsigned char a[8192 + 16], b[8192 + 16];

static void set_up(void) {
    MUST(nvmeh_host_new(NULL, &host));
    MUST(nvmeh_host_connect(host, url, NULL, &controller));
    MUST(nvmeh_controller_wait_ready(controller, 20000));
    MUST(nvmeh_host_head(host, NULL, 1, 20000, &head));
    MUST(nvmeh_host_head(host, NULL, 2, 20000, &extended));
    MUST(nvmeh_channel_new(host, NULL, &channel));
}

static void snapshots(void) {
    char small[16], *text;
    int n, size;
    IS(nvmeh_host_snapshot(NULL, NVMEH_SNAPSHOT_JSON, small, sizeof small), -EFAULT);
    IS(nvmeh_host_snapshot(host, 3, small, sizeof small), -EINVAL);
    SAYS("NVMEH_SNAPSHOT_*");
    IS(nvmeh_host_snapshot(host, NVMEH_SNAPSHOT_JSON, NULL, 7), -EFAULT);
    size = nvmeh_host_snapshot(host, NVMEH_SNAPSHOT_JSON, small, sizeof small);
    IS(size > 16 && strlen(small) == 15, 1);
    size += 4096;
    text = malloc((size_t)size);
    n = nvmeh_host_snapshot(host, NVMEH_SNAPSHOT_JSON, text, (size_t)size);
    IS(n > 0 && n < size && text[0] == '{' && text[n - 1] == '}' && text[n] == 0, 1);
    IS(strstr(text, "\"controllers\":[{") != NULL && strstr(text, "\"pins\":[]") != NULL, 1);
    free(text);
    size = nvmeh_host_snapshot(host, NVMEH_SNAPSHOT_PROMETHEUS, NULL, 0);
    MUST(size);
    size += 4096;
    text = malloc((size_t)size);
    n = nvmeh_host_snapshot(host, NVMEH_SNAPSHOT_PROMETHEUS, text, (size_t)size);
    IS(n > 0 && n < size && strstr(text, "# TYPE nvme_host_") != NULL, 1);
    free(text);
}

static struct nvmeh_passthrough command(unsigned opcode, void *data, uint64_t len) {
    struct nvmeh_passthrough p;
    memset(&p, 0, sizeof p);
    p.size = sizeof p;
    p.opcode = opcode;
    p.data = data;
    p.data_len = len;
    return p;
}

static struct nvmeh_completion reap(void) {
    struct nvmeh_completion c;
    int n = 0;
    while (n == 0) {
        MUST(nvmeh_channel_wait(channel, 1000));
        c.size = sizeof c;
        n = nvmeh_channel_reap(channel, &c, 1);
        MUST(n);
    }
    return c;
}

static void passthrough(void) {
    struct nvmeh_passthrough p;
    struct nvmeh_completion c;
    uint64_t id;
    memset(a, 0x5a, sizeof a);
    p = command(0x01, a, 8192); /* Write, two blocks from block 3 on */
    p.cdw10[0] = 3;
    p.cdw10[2] = 1;
    p.idempotent = 1;
    p.timeout_ms = 60000;
    IS(nvmeh_execute_passthrough(channel, head, &p), 0);
    IS(p.nvme_status == 0 && p.size == sizeof p, 1);
    memset(b, 0, sizeof b);
    p = command(0x02, b, 8192); /* Read */
    p.cdw10[0] = 3;
    p.cdw10[2] = 1;
    p.arg = &c;
    IS(nvmeh_submit_passthrough(channel, head, &p, &id), 0);
    c = reap();
    IS(c.result == 0 && c.id == id && c.arg == &c && memcmp(a, b, 8192) == 0, 1);
    p = command(0x00, NULL, 0); /* Flush */
    IS(nvmeh_execute_passthrough(channel, head, &p), 0);
    p = command(0x02, b, 4096);
    p.cdw10[1] = 1; /* far beyond the end */
    IS(nvmeh_execute_passthrough(channel, head, &p), -ERANGE);
    IS(p.nvme_status, 0x80);
    p.callback = NULL;
    IS(nvmeh_submit_passthrough(channel, head, &p, NULL), 0);
    c = reap();
    IS(c.result == -ERANGE && c.nvme_status == 0x80 && c.flags == 0, 1);
    /* What cannot be a command. */
    p = command(0x102, b, 4096);
    IS(nvmeh_execute_passthrough(channel, head, &p), -EINVAL);
    SAYS("0x102 is no opcode");
    p = command(0x02, b, 8192); /* says one block */
    IS(nvmeh_execute_passthrough(channel, head, &p), -EINVAL);
    p = command(0x02, NULL, 4096);
    IS(nvmeh_submit_passthrough(channel, head, &p, NULL), -EFAULT);
    p = command(0x7f, b, 4096); /* Fabrics */
    IS(nvmeh_submit_passthrough(channel, head, &p, NULL), -EINVAL);
    p = command(0x82, b, (uint64_t)1 << 40);
    IS(nvmeh_submit_passthrough(channel, head, &p, NULL), -EMSGSIZE);
    p.size = 16;
    IS(nvmeh_submit_passthrough(channel, head, &p, NULL), -EINVAL);
    IS(nvmeh_submit_passthrough(channel, head, NULL, NULL), -EFAULT);
    IS(nvmeh_submit_passthrough(NULL, head, &p, NULL), -EFAULT);
    IS(nvmeh_execute_passthrough(channel, NULL, &p), -EFAULT);
    IS(nvmeh_channel_in_flight(channel), 0);
}

static void power(void) {
    struct nvmeh_power_state states[4];
    struct nvmeh_controller_info info;
    states[0].size = sizeof states[0];
    IS(nvmeh_controller_power_states(controller, states, 4), 2);
    IS(states[0].power == 80000 && states[0].non_operational == 0, 1);
    IS(states[1].non_operational == 1 && states[1].entry_us == 1000 && states[1].exit_us == 2000, 1);
    IS(nvmeh_controller_power_states(controller, NULL, 1), -EFAULT);
    IS(nvmeh_controller_power_state(controller, 20000), 0);
    IS(nvmeh_controller_set_power_state(controller, 1, 20000), 0);
    IS(nvmeh_controller_power_state(controller, 20000), 1);
    IS(nvmeh_controller_set_power_state(controller, 0, 20000), 0);
    IS(nvmeh_controller_set_power_state(controller, 32, 20000), -EINVAL);
    IS(nvmeh_controller_set_power_state(controller, 7, 20000), -EINVAL); /* the controller refuses */
    IS(nvmeh_controller_power_state(NULL, 1), -EFAULT);
    /* Only on a bus. */
    info.size = sizeof info;
    MUST(nvmeh_controller_get_info(controller, &info));
    IS(info.subsystem_reset == 0 && info.host_memory == 0, 1);
    IS(nvmeh_controller_subsystem_reset(controller, "a test"), -EOPNOTSUPP);
    SAYS("NSSRS");
    IS(nvmeh_controller_subsystem_reset(controller, NULL), -EFAULT);
    IS(nvmeh_controller_subsystem_reset(NULL, "a test"), -EFAULT);
}

static void removal(void) {
    uint64_t ms = 0;
    IS(nvmeh_head_set_next_delayed_removal(head, NVMEH_CAUSE_LINK_LOST, 7000), 0);
    MUST(nvmeh_head_delayed_removal(head, NVMEH_CAUSE_LINK_LOST, &ms));
    IS(ms, 7000);
    IS(nvmeh_head_set_next_delayed_removal(head, 9, 1), -EINVAL);
    IS(nvmeh_head_set_next_delayed_removal(NULL, 0, 1), -EFAULT);
}

static struct nvmeh_request request(int op, struct iovec *iov, void *memory, size_t len) {
    struct nvmeh_request r;
    iov->iov_base = memory;
    iov->iov_len = len;
    memset(&r, 0, sizeof r);
    r.size = sizeof r;
    r.op = op;
    r.iov = iov;
    r.iovcnt = 1;
    return r;
}

static void metadata(void) {
    struct nvmeh_geometry g;
    struct nvmeh_request r;
    struct iovec iov;
    size_t at;
    g.size = sizeof g;
    MUST(nvmeh_head_geometry(extended, &g));
    IS(g.block_size == 4096 && g.metadata_size == 8 && g.extended_metadata == 1, 1);
    for (at = 0; at < sizeof a; at++)
        a[at] = (unsigned char)(at * 13);
    IS(nvmeh_write(channel, extended, a, 2 * 4104, 4096, 0), 0);
    memset(b, 0, sizeof b);
    IS(nvmeh_read(channel, extended, b, 2 * 4104, 4096, 0), 0);
    IS(memcmp(a, b, 2 * 4104), 0);
    IS(nvmeh_read(channel, extended, b, 4104, 8192, 0), 0);
    IS(memcmp(a + 4104, b, 4104), 0);
    IS(nvmeh_read(channel, extended, b, 4096, 4096, 0), -EINVAL);
    /* Beside the data, where none belongs. */
    r = request(NVMEH_OP_READ, &iov, b, 4096);
    r.metadata = a;
    r.metadata_len = 8;
    IS(nvmeh_execute(channel, head, &r), -EOPNOTSUPP);
    IS(nvmeh_submit(channel, head, &r, NULL), -EOPNOTSUPP);
    r.metadata = NULL;
    IS(nvmeh_execute(channel, head, &r), -EFAULT);
    r.metadata_len = UINT64_MAX;
    IS(nvmeh_execute(channel, head, &r), -EMSGSIZE);
    r.metadata_len = 0;
    IS(nvmeh_execute(channel, head, &r), 0);
}

/* The controller never answers a compare, and aborts it when asked to. */
static void cancelled(void) {
    struct nvmeh_completion c;
    struct nvmeh_request r;
    struct iovec iov;
    uint64_t id;
    r = request(NVMEH_OP_COMPARE, &iov, a, 4096);
    IS(nvmeh_submit(channel, head, &r, &id), 0);
    MUST(nvmeh_channel_poll(channel, 0));
    IS(nvmeh_channel_cancel(channel, id), 1);
    IS(nvmeh_channel_cancel(channel, id), 0);
    c = reap();
    IS(c.id == id && c.result == -ECANCELED && c.flags == 0, 1);
    r.timeout_ms = 50;
    IS(nvmeh_submit(channel, head, &r, &id), 0);
    c = reap();
    IS(c.id == id && c.result == -ETIMEDOUT && c.flags == 0, 1);
    IS(nvmeh_controller_state(controller), NVMEH_CONTROLLER_LIVE);
}

/* A host without a thread of the library's. */
static void driven(void) {
    struct nvmeh_options *o;
    struct nvmeh_host *own;
    struct nvmeh_controller *c;
    uint64_t ms = 1;
    IS(nvmeh_host_deadline(host, &ms), 0);
    IS(ms == NVMEH_FOREVER, 1);
    IS(nvmeh_host_deadline(host, NULL), -EFAULT);
    IS(nvmeh_host_deadline(NULL, &ms), -EFAULT);
    IS(nvmeh_host_begin_shutdown(NULL, 0), -EFAULT);
    MUST(nvmeh_options_new(NVMEH_OPTIONS_HOST, &o));
    MUST(nvmeh_options_set_bool(o, "control_thread", 0));
    MUST(nvmeh_host_new(o, &own));
    nvmeh_options_free(o);
    MUST(nvmeh_options_new(NVMEH_OPTIONS_CONTROLLER, &o));
    MUST(nvmeh_options_set(o, "keep_alive_ms", "5000"));
    MUST(nvmeh_options_set(o, "apst_latency_ms", "100"));
    MUST(nvmeh_options_set(o, "host_memory_bytes", "1048576"));
    IS(nvmeh_options_set(o, "host_memory_bytes", "much"), -EINVAL);
    MUST(nvmeh_host_connect(own, url, o, &c));
    nvmeh_options_free(o);
    IS(nvmeh_host_deadline(own, &ms), 0);
    IS(ms, 0); /* there is a letter */
    while (nvmeh_controller_state(c) != NVMEH_CONTROLLER_LIVE)
        IS(nvmeh_host_drive(own, 10), 1);
    do {
        IS(nvmeh_host_drive(own, 10), 1);
        IS(nvmeh_host_deadline(own, &ms), 0);
    } while (ms == 0);
    IS(ms <= 5000, 1); /* keep-alive at the latest */
    MUST(nvmeh_host_begin_shutdown(own, 0));
    while (nvmeh_host_drive(own, 10) == 1) {
    }
    nvmeh_controller_free(c);
    nvmeh_host_destroy(own);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s URL\n", argv[0]);
        return 2;
    }
    url = argv[1];
    set_up();
    snapshots();
    passthrough();
    power();
    removal();
    metadata();
    cancelled();
    driven();
    MUST(nvmeh_host_shutdown(host));
    nvmeh_channel_destroy(channel);
    nvmeh_head_free(head);
    nvmeh_head_free(extended);
    nvmeh_controller_free(controller);
    nvmeh_host_destroy(host);
    printf("good\n");
    return 0;
}
