/* What a C program sees of trouble, and of a path that joins: events, and the calls and counts about
 * requests that are overdue, held or hedged. trouble URL URL
 *
 * On the first path, reads of block 100 take 600 ms, reads of block 200 are never answered, and the first
 * write to block 300 ends the connection without having been carried out. */
#define _POSIX_C_SOURCE 200809L
#include "must.h"

#include <errno.h>

enum { BLOCK = 4096, SLOW = 100, NEVER = 200, CUT = 300 };

static struct nvmeh_host *host;
static struct nvmeh_events *events;
static struct nvmeh_controller *path[2];
static struct nvmeh_head *head;
static struct nvmeh_channel *channel;
static unsigned char *memory;

static void option(struct nvmeh_options *o, const char *name, const char *value) {
    char back[128];
    MUST(nvmeh_options_set(o, name, value));
    MUST(nvmeh_options_get(o, name, back, sizeof back));
    IS(strcmp(value, back), 0);
}

static void connect_to(int at, const char *url) {
    struct nvmeh_options *o;
    MUST(nvmeh_options_new(NVMEH_OPTIONS_CONTROLLER, &o));
    option(o, "fence", "strict");
    option(o, "fence_time_ms", "2500");
    option(o, "reconnect_delay_ms", "100");
    option(o, "abort_wait_ms", "300");
    MUST(nvmeh_host_connect(host, url, o, &path[at]));
    nvmeh_options_free(o);
    MUST(nvmeh_controller_wait_ready(path[at], 20000));
}

static void set_up(const char *url) {
    struct nvmeh_options *o;
    MUST(nvmeh_options_new(NVMEH_OPTIONS_HOST, &o));
    option(o, "quirks", "1b36:0010=no-sgl;model:Example Drive*@1.0=no-apst,-bogus-ids");
    IS(nvmeh_options_set(o, "quirks", "1b36:0010=no-such-quirk"), -EINVAL);
    SAYS("no-such-quirk");
    option(o, "quirks", "");
    option(o, "numa_topology", "0-1=10,21;2-3,5=21,10");
    IS(nvmeh_options_set(o, "numa_topology", "0-1=10,21;2-3"), -EINVAL);
    IS(nvmeh_options_set(o, "numa_topology", "0-1=10;0=10,20"), -EINVAL);
    option(o, "numa_topology", "system");
    MUST(nvmeh_host_new(o, &host));
    nvmeh_options_free(o);
    MUST(nvmeh_events_new(host, 1024, &events));
    connect_to(0, url);
    MUST(nvmeh_host_head(host, NULL, 1, 20000, &head));
    MUST(nvmeh_head_set_policy(head, "active-passive"));
    MUST(nvmeh_head_set_preferred_path(head, nvmeh_controller_id(path[0])));
    MUST(nvmeh_options_new(NVMEH_OPTIONS_CHANNEL, &o));
    option(o, "busy_poll_us", "0");
    option(o, "busy_poll_us", "200");
    IS(nvmeh_options_set(o, "busy_poll_us", "10001"), -EINVAL);
    option(o, "io_timeout_ms", "1500");
    MUST(nvmeh_channel_new(host, o, &channel));
    nvmeh_options_free(o);
}

/* The next event of a kind and, unless it is 0, with that `to`, about the controller; events before it
 * are dropped. */
static struct nvmeh_event await(int kind, int to, int at) {
    struct nvmeh_event e;
    int n = 0, tries = 0;
    e.size = sizeof e;
    do {
        MUST(nvmeh_channel_poll(channel, 0));
        n = nvmeh_events_next(events, 10, &e);
        MUST(n);
        if (n == 0 && ++tries == 2000) {
            fprintf(stderr, "no event %d (%d) came\n", kind, to);
            exit(1);
        }
    } while (n == 0 || e.kind != kind || (to != 0 && e.to != to) ||
             e.controller != nvmeh_controller_id(path[at]));
    return e;
}

static void submit(int op, uint64_t at, uint32_t flags) {
    struct iovec iov;
    struct nvmeh_request r;
    iov.iov_base = memory;
    iov.iov_len = BLOCK;
    memset(&r, 0, sizeof r);
    r.size = sizeof r;
    r.op = op;
    r.flags = flags;
    r.offset = at * BLOCK;
    r.iov = &iov;
    r.iovcnt = 1;
    MUST(nvmeh_submit(channel, head, &r, NULL));
}

/* The end of the one request that is under way. */
static void ends_well(void) {
    struct nvmeh_completion c;
    int n = 0, tries;
    for (tries = 0; n == 0 && tries < 2000; tries++) {
        MUST(nvmeh_channel_wait(channel, 10));
        c.size = sizeof c;
        n = nvmeh_channel_reap(channel, &c, 1);
    }
    IS(n, 1);
    IS(c.result, 0);
    IS(nvmeh_channel_in_flight(channel), 0);
}

static struct nvmeh_head_stats stats(void) {
    struct nvmeh_head_stats s;
    s.size = sizeof s;
    MUST(nvmeh_head_get_stats(head, &s));
    return s;
}

static void a_path_that_joins(const char *url) {
    struct nvmeh_path paths[2];
    struct nvmeh_event e;
    paths[0].size = sizeof paths[0];
    IS(nvmeh_head_paths(head, paths, 2), 1);
    connect_to(1, url);
    e = await(NVMEH_EVENT_PATH_UP, 0, 1);
    IS(e.head, nvmeh_head_instance(head));
    IS(e.address[0] != 0 && e.name[0] != 0, 1);
    paths[0].size = sizeof paths[0];
    IS(nvmeh_head_paths(head, paths, 2), 2);
}

static void hedged(void) {
    struct nvmeh_hedge_options h;
    int n;
    h.size = sizeof h;
    MUST(nvmeh_hedge_options_init(&h));
    h.min_delay_ns = 200000000;
    MUST(nvmeh_head_set_hedged_reads(head, &h));
    for (n = 0; n < 200; n++) {
        submit(NVMEH_OP_READ, 0, NVMEH_HEDGE);
        ends_well();
    }
    /* Again and again until the channel has a queue of the other path, too. */
    for (n = 0; n < 20 && stats().hedges_won == 0; n++) {
        submit(NVMEH_OP_READ, SLOW, NVMEH_HEDGE);
        ends_well();
    }
    IS(stats().hedges > 0 && stats().hedges_won > 0, 1);
    MUST(nvmeh_head_set_hedged_reads(head, NULL));
}

static void overdue(void) {
    struct nvmeh_event e;
    uint64_t command;
    submit(NVMEH_OP_READ, NEVER, 0);
    e = await(NVMEH_EVENT_COMMAND_OVERDUE, NVMEH_OVERDUE_ABORTING, 0);
    command = e.value;
    IS(command >> 16 > 0, 1);
    e = await(NVMEH_EVENT_COMMAND_OVERDUE, NVMEH_OVERDUE_ANSWERED, 0);
    IS(e.value == command && e.text[0] != 0, 1);
    /* It is aborted, and sent down the other path. */
    ends_well();
    IS(stats().retries + stats().failovers > 0, 1);
}

static void held(void) {
    struct nvmeh_event e;
    IS(nvmeh_channel_held(channel), 0);
    submit(NVMEH_OP_WRITE, CUT, 0);
    e = await(NVMEH_EVENT_FENCING, 0, 0);
    IS(e.value > 0 && e.value <= 2500, 1);
    IS(nvmeh_channel_held(channel), 1);
    IS(stats().held, 1);
    IS(stats().held_now, 1);
    /* Reads go on meanwhile. */
    submit(NVMEH_OP_READ, 0, 0);
    e = await(NVMEH_EVENT_FENCED, 0, 0);
    IS(e.from, NVMEH_FENCED_BY_TIME);
    IS(e.value >= 2500, 1);
}

int main(int argc, char **argv) {
    struct nvmeh_completion c;
    int at, ended = 0;
    if (argc < 3) {
        fprintf(stderr, "usage: %s URL URL\n", argv[0]);
        return 2;
    }
    if (posix_memalign((void **)&memory, BLOCK, BLOCK))
        return 2;
    memset(memory, 0x5a, BLOCK);
    set_up(argv[1]);
    a_path_that_joins(argv[2]);
    hedged();
    overdue();
    held();
    for (at = 0; ended < 2 && at < 2000; at++) {
        MUST(nvmeh_channel_wait(channel, 10));
        c.size = sizeof c;
        if (nvmeh_channel_reap(channel, &c, 1) == 1) {
            IS(c.result, 0);
            ended++;
        }
    }
    IS(ended, 2);
    IS(nvmeh_channel_held(channel), 0);
    IS(nvmeh_channel_held(NULL), -EFAULT);
    MUST(nvmeh_host_shutdown(host));
    IS(nvmeh_channel_held(channel), 0);
    nvmeh_channel_destroy(channel);
    nvmeh_events_free(events);
    nvmeh_head_free(head);
    for (at = 0; at < 2; at++)
        nvmeh_controller_free(path[at]);
    nvmeh_host_destroy(host);
    free(memory);
    printf("good\n");
    return 0;
}
