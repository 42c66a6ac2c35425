/* What C can do beyond plain I/O: policies, hedging, fencing, time limits, latencies, admin commands,
 * discovery, memory of its own. reach URL URL DISCOVERY_URL */
#define _POSIX_C_SOURCE 200809L
#include "must.h"

#include <errno.h>

static struct nvmeh_host *host;
static struct nvmeh_controller *path[2];
static struct nvmeh_head *head;
static struct nvmeh_channel *channel;
static unsigned char *a, *b;
static const size_t block = 4096, page = 4096;

static void option(struct nvmeh_options *o, const char *name, const char *value) {
    char back[64];
    MUST(nvmeh_options_set(o, name, value));
    MUST(nvmeh_options_get(o, name, back, sizeof back));
    if (strcmp(value, back) != 0) {
        fprintf(stderr, "option %s is \"%s\" and not \"%s\"\n", name, back, value);
        exit(1);
    }
}

static struct nvmeh_request request(int op, struct iovec *iov) {
    struct nvmeh_request r;
    memset(&r, 0, sizeof r);
    r.size = sizeof r;
    r.op = op;
    r.iov = iov;
    r.iovcnt = iov != NULL;
    return r;
}

static void set_up(char **url) {
    struct nvmeh_options *o;
    int at;
    MUST(nvmeh_options_new(NVMEH_OPTIONS_HOST, &o));
    option(o, "fence", "strict");
    option(o, "policy", "queue-depth");
    IS(nvmeh_options_set(o, "fence", "some"), -EINVAL);
    MUST(nvmeh_host_new(o, &host));
    nvmeh_options_free(o);
    MUST(nvmeh_options_new(NVMEH_OPTIONS_CONTROLLER, &o));
    option(o, "fence", "off");
    option(o, "fence", "default");
    option(o, "fence_time_ms", "700");
    option(o, "fence_time_ms", "auto");
    option(o, "on_timeout_reads", "reset");
    option(o, "on_timeout_writes", "abort");
    option(o, "on_timeout_admin", "abort");
    option(o, "abort_wait_ms", "1500");
    option(o, "numa_node", "1");
    option(o, "numa_node", "auto");
    IS(nvmeh_options_set(o, "on_timeout_reads", "hope"), -EINVAL);
    for (at = 0; at < 2; at++) {
        MUST(nvmeh_host_connect(host, url[at], o, &path[at]));
        MUST(nvmeh_controller_wait_ready(path[at], 20000));
    }
    nvmeh_options_free(o);
    MUST(nvmeh_host_head(host, NULL, 1, 20000, &head));
    MUST(nvmeh_options_new(NVMEH_OPTIONS_CHANNEL, &o));
    option(o, "latency_histograms", "1");
    option(o, "hedge_buffers", "16");
    MUST(nvmeh_channel_new(host, o, &channel));
    nvmeh_options_free(o);
}

static void policies(void) {
    struct nvmeh_path paths[2];
    char text[64];
    MUST(nvmeh_head_policy(head, text, sizeof text));
    IS(strcmp(text, "queue-depth"), 0);
    MUST(nvmeh_host_set_policy(host, "numa"));
    MUST(nvmeh_head_policy(head, text, sizeof text));
    IS(strcmp(text, "numa"), 0);
    MUST(nvmeh_controller_subsystem(path[0], text, sizeof text));
    MUST(nvmeh_host_set_subsystem_policy(host, text, "service-time"));
    MUST(nvmeh_head_policy(head, text, sizeof text));
    IS(strcmp(text, "service-time"), 0);
    MUST(nvmeh_head_set_policy(head, "active-passive"));
    MUST(nvmeh_head_policy(head, text, sizeof text));
    IS(strcmp(text, "active-passive"), 0);
    IS(nvmeh_head_set_policy(head, "luck"), -EINVAL);
    IS(strstr(nvmeh_last_error(), "round-robin") != NULL, 1);
    IS(nvmeh_head_set_preferred_path(head, -2), -EINVAL);
    MUST(nvmeh_head_set_preferred_path(head, nvmeh_controller_id(path[1])));
    MUST(nvmeh_controller_set_marginal(path[0], 1));
    IS(nvmeh_controller_is_marginal(path[0]), 1);
    IS(nvmeh_controller_is_marginal(path[1]), 0);
    do {
        paths[0].size = sizeof paths[0];
        IS(nvmeh_head_paths(head, paths, 2), 2);
    } while (paths[0].marginal + paths[1].marginal != 1);
    MUST(nvmeh_controller_set_marginal(path[0], 0));
    MUST(nvmeh_head_fence(head, text, sizeof text));
    IS(strlen(text), 0);
    MUST(nvmeh_head_set_fence(head, "strict"));
    MUST(nvmeh_head_fence(head, text, sizeof text));
    IS(strcmp(text, "strict"), 0);
    IS(nvmeh_head_set_fence(head, "barbed"), -EINVAL);
    MUST(nvmeh_head_set_fence(head, NULL));
}

/* Requests that a path has ended, by its latencies. */
static uint64_t counted(struct nvmeh_controller *controller, int direction) {
    struct nvmeh_latency_bucket buckets[512];
    uint64_t sum = 0;
    int n, at;
    buckets[0].size = sizeof buckets[0];
    n = nvmeh_controller_latency(controller, direction, buckets, 512);
    MUST(n);
    for (at = 0; at < n; at++) {
        IS(buckets[at].count > 0 && (at == 0 || buckets[at].below_ns > buckets[at - 1].below_ns), 1);
        sum += buckets[at].count;
    }
    return sum;
}

/* Waits until `wanted` requests have been counted on both paths: latencies come by way of the control
 * plane's next look at them. */
static void until_counted(int direction, uint64_t wanted) {
    uint64_t sum = 0;
    int at;
    for (at = 0; at < 2000 && sum != wanted; at++) {
        MUST(nvmeh_channel_wait(channel, 10));
        sum = counted(path[0], direction) + counted(path[1], direction);
    }
    IS(sum, wanted);
}

static void requests(void) {
    struct iovec whole;
    struct nvmeh_request r;
    struct nvmeh_completion c;
    uint64_t id, ns, writes = 1, elsewhere;
    size_t at;
    struct { struct nvmeh_request r; uint64_t later; } newer;
    whole.iov_base = a;
    whole.iov_len = block;
    for (at = 0; at < block; at++)
        a[at] = (unsigned char)(at * 7);
    r = request(NVMEH_OP_WRITE, &whole);
    r.flags = NVMEH_FUA;
    r.timeout_ms = 60000;
    IS(nvmeh_execute(channel, head, &r), 0);
    /* The other path serves until the preferred one's queue is open. */
    for (; writes < 20000 && counted(path[1], NVMEH_LATENCY_WRITES) == 0; writes++)
        IS(nvmeh_execute(channel, head, &r), 0);
    until_counted(NVMEH_LATENCY_WRITES, writes);
    elsewhere = counted(path[0], NVMEH_LATENCY_WRITES);
    IS(nvmeh_execute(channel, head, &r), 0);
    whole.iov_base = b;
    r = request(NVMEH_OP_READ, &whole);
    r.flags = NVMEH_HEDGE;
    r.arg = &r;
    IS(nvmeh_submit(channel, head, &r, &id), 0);
    do {
        MUST(nvmeh_channel_wait(channel, 1000));
        c.size = sizeof c;
        at = (size_t)nvmeh_channel_reap(channel, &c, 1);
    } while (at == 0);
    IS(at, 1);
    IS(c.result, 0);
    IS(c.id == id && c.arg == &r, 1);
    IS(memcmp(a, b, block), 0);
    IS(nvmeh_execute(channel, head, &r), 0);
    until_counted(NVMEH_LATENCY_READS, 2);
    IS(counted(path[0], NVMEH_LATENCY_READS), 0);
    r = request(NVMEH_OP_COMPARE, &whole);
    IS(nvmeh_execute(channel, head, &r), 0);
    r = request(NVMEH_OP_FLUSH, NULL);
    IS(nvmeh_execute(channel, head, &r), 0);
    r = request(NVMEH_OP_WRITE_ZEROES, NULL);
    r.len = block;
    IS(nvmeh_execute(channel, head, &r), 0);
    r = request(NVMEH_OP_COMPARE, &whole);
    IS(nvmeh_execute(channel, head, &r), -EILSEQ);
    r = request(9, NULL);
    IS(nvmeh_execute(channel, head, &r), -EINVAL);
    r.op = NVMEH_OP_FLUSH;
    r.size = 8;
    IS(nvmeh_execute(channel, head, &r), -EINVAL);
    memset(&newer, 0, sizeof newer);
    newer.r = request(NVMEH_OP_FLUSH, NULL);
    newer.r.size = sizeof newer;
    IS(nvmeh_execute(channel, head, &newer.r), 0);
    newer.later = 1;
    IS(nvmeh_execute(channel, head, &newer.r), -EOPNOTSUPP);
    IS(nvmeh_execute(channel, head, NULL), -EFAULT);
    /* One write, two flushes and the zeroes since then: all went to the preferred path. */
    until_counted(NVMEH_LATENCY_WRITES, writes + 4);
    IS(counted(path[0], NVMEH_LATENCY_WRITES), elsewhere);
    MUST(nvmeh_controller_latency_quantile(path[1], NVMEH_LATENCY_WRITES, 0.5, &ns));
    IS(ns > 0, 1);
    IS(nvmeh_controller_latency_quantile(path[1], 2, 0.5, &ns), -EINVAL);
}

static void hedging(void) {
    struct nvmeh_hedge_options h;
    struct nvmeh_head_stats s;
    h.size = sizeof h;
    MUST(nvmeh_hedge_options_init(&h));
    IS(h.percentile > 0.9 && h.min_delay_ns == 100000, 1);
    MUST(nvmeh_head_set_hedged_reads(head, &h));
    s.size = sizeof s;
    MUST(nvmeh_head_get_stats(head, &s));
    IS(s.size, sizeof s);
    IS(s.held_now, 0);
    MUST(nvmeh_head_set_hedged_reads(head, NULL));
    h.size = 3;
    IS(nvmeh_head_set_hedged_reads(head, &h), -EINVAL);
}

static void admin(void) {
    struct nvmeh_admin command;
    struct nvmeh_controller_info info;
    struct nvmeh_controller *list[4];
    unsigned char *data = malloc(4096);
    char text[32];
    int n;
    info.size = sizeof info;
    MUST(nvmeh_controller_get_info(path[0], &info));
    IS(info.io_queues > 0 && info.version >= 0x10000, 1);
    memset(&command, 0, sizeof command);
    command.size = sizeof command;
    command.opcode = 0x06; /* Identify, the controller */
    command.cdw10[0] = 1;
    command.direction = NVMEH_DATA_IN;
    command.data = data;
    command.data_len = 4096;
    IS(nvmeh_controller_admin(path[0], &command, 20000), 0);
    IS((unsigned)(data[78] | data[79] << 8), info.cntlid);
    IS(memcmp(data + 4, info.serial, strlen(info.serial)), 0);
    command.cdw10[0] = 0xee;
    n = nvmeh_controller_admin(path[0], &command, 20000);
    IS(n < 0 && command.nvme_status != 0, 1);
    command.opcode = 0x1000;
    IS(nvmeh_controller_admin(path[0], &command, 20000), -EINVAL);
    command.opcode = 6;
    command.data_len = (uint64_t)1 << 40;
    IS(nvmeh_controller_admin(path[0], &command, 20000), -EMSGSIZE);
    IS(nvmeh_controller_removed(path[0], text, sizeof text), 0);
    n = nvmeh_host_controllers(host, list, 4);
    IS(n, 2);
    IS(nvmeh_controller_id(list[0]), nvmeh_controller_id(path[0]));
    while (n-- > 0)
        nvmeh_controller_free(list[n]);
    free(data);
}

static void discovery(const char *url) {
    struct nvmeh_discovered found[8];
    int n, at, same = 0;
    char nqn[256];
    MUST(nvmeh_controller_subsystem(path[0], nqn, sizeof nqn));
    found[0].size = sizeof found[0];
    n = nvmeh_host_discover(host, url, 20000, found, 8);
    MUST(n);
    for (at = 0; at < n && at < 8; at++)
        same += strcmp(found[at].subnqn, nqn) == 0 && strncmp(found[at].url, "tcp://", 6) == 0;
    IS(same > 0, 1);
    IS(nvmeh_host_discover(host, "nowhere://x", 20000, found, 8), -EPROTONOSUPPORT);
}

static void memory(void) {
    struct nvmeh_memory *own, *ours;
    IS(nvmeh_memory_register(host, a, 0, &own), -EINVAL);
    IS(nvmeh_memory_register(host, NULL, page, &own), -EFAULT);
    MUST(nvmeh_memory_register(host, a, page, &own));
    IS(nvmeh_memory_data(own) == a && nvmeh_memory_size(own) == page, 1);
    IS(nvmeh_write(channel, head, a, block, 0, 0), 0);
    IS(nvmeh_memory_unregister(own, 20000), 0);
    IS(nvmeh_memory_unregister(own, 0), 0);
    nvmeh_memory_free(own);
    MUST(nvmeh_memory_new(host, page, &ours));
    IS(nvmeh_memory_unregister(ours, 0), -EINVAL);
    nvmeh_memory_free(ours);
}

int main(int argc, char **argv) {
    int at;
    if (argc < 4) {
        fprintf(stderr, "usage: %s URL URL DISCOVERY_URL\n", argv[0]);
        return 2;
    }
    if (posix_memalign((void **)&a, page, page) || posix_memalign((void **)&b, page, page))
        return 2;
    set_up(argv + 1);
    policies();
    requests();
    hedging();
    admin();
    discovery(argv[3]);
    memory();
    MUST(nvmeh_host_shutdown(host));
    nvmeh_channel_destroy(channel);
    nvmeh_head_free(head);
    for (at = 0; at < 2; at++)
        nvmeh_controller_free(path[at]);
    nvmeh_host_destroy(host);
    free(a);
    free(b);
    printf("good\n");
    return 0;
}
