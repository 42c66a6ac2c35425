/* What no program should do, and the answers. bad_input URL */
#define _POSIX_C_SOURCE 200809L
#include "must.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <time.h>

static struct nvmeh_host *host;
static struct nvmeh_controller *controller;
static struct nvmeh_head *head;
static struct nvmeh_channel *channel;
static unsigned char a[8192], b[8192];
static int calls;

static void count(const struct nvmeh_completion *c, void *arg) {
    IS(c->arg == arg, 1);
    IS(c->result, 0);
    calls++;
}

static void nulls(void) {
    struct nvmeh_head_status status;
    struct nvmeh_options *none = NULL;
    IS(nvmeh_options_new(NVMEH_OPTIONS_HOST, NULL), -EFAULT);
    IS(nvmeh_options_set(none, "depth", "1"), -EFAULT);
    SAYS("nvmeh_options is NULL");
    IS(nvmeh_host_new(NULL, NULL), -EFAULT);
    IS(nvmeh_host_drive(NULL, 0), -EFAULT);
    IS(nvmeh_host_connect(NULL, "tcp://x/y", NULL, NULL), -EFAULT);
    IS(nvmeh_host_connect(host, NULL, NULL, NULL), -EFAULT);
    IS(nvmeh_host_head(host, NULL, 1, 0, NULL), -EFAULT);
    IS(nvmeh_host_shutdown(NULL), -EFAULT);
    IS(nvmeh_controller_state(NULL), -EFAULT);
    IS(nvmeh_controller_address(controller, NULL, 7), -EFAULT);
    IS(nvmeh_head_get_status(NULL, &status), -EFAULT);
    IS(nvmeh_head_get_status(head, NULL), -EFAULT);
    IS(nvmeh_head_nsid(NULL) == 0, 1);
    IS(nvmeh_channel_new(host, NULL, NULL), -EFAULT);
    IS(nvmeh_channel_poll(NULL, 0), -EFAULT);
    IS(nvmeh_read(channel, NULL, a, 4096, 0, 0), -EFAULT);
    IS(nvmeh_read(NULL, head, a, 4096, 0, 0), -EFAULT);
    IS(nvmeh_read(channel, head, NULL, 4096, 0, 0), -EFAULT);
    IS(nvmeh_readv(channel, head, NULL, 1, 0, 0), -EFAULT);
    IS(nvmeh_events_new(host, 1, NULL), -EFAULT);
    IS(nvmeh_events_next(NULL, 0, NULL), -EFAULT);
    IS(nvmeh_pin_take(host, NULL, NULL), -EFAULT);
    IS(nvmeh_memory_new(host, 1, NULL), -EFAULT);
    IS(nvmeh_memory_data(NULL) == NULL, 1);
    nvmeh_options_free(NULL);
    nvmeh_controller_free(NULL);
    nvmeh_head_free(NULL);
    nvmeh_channel_destroy(NULL);
    nvmeh_events_free(NULL);
    nvmeh_pin_release(NULL);
    nvmeh_memory_free(NULL);
    nvmeh_host_destroy(NULL);
}

static void freed(void) {
    struct nvmeh_options *o;
    struct nvmeh_head *h;
    struct nvmeh_channel *c;
    MUST(nvmeh_options_new(NVMEH_OPTIONS_CHANNEL, &o));
    nvmeh_options_free(o);
    nvmeh_options_free(o);
    SAYS("freed before");
    IS(nvmeh_options_set(o, "depth", "1"), -EBADF);
    SAYS("nvmeh_options was freed");
    MUST(nvmeh_host_head(host, NULL, 1, 0, &h));
    nvmeh_head_free(h);
    IS(nvmeh_head_remove_now(h), -EBADF);
    IS(nvmeh_read(channel, h, a, 4096, 0, 0), -EBADF);
    MUST(nvmeh_channel_new(host, NULL, &c));
    nvmeh_channel_destroy(c);
    nvmeh_channel_destroy(c);
    IS(nvmeh_channel_poll(c, 0), -EBADF);
    /* A handle of another kind. */
    IS(nvmeh_head_remove_now((struct nvmeh_head *)(void *)channel), -EBADF);
}

static void options(void) {
    struct nvmeh_options *o, *other;
    struct nvmeh_host *h;
    char text[64];
    IS(nvmeh_options_new(7, &o), -EINVAL);
    MUST(nvmeh_options_new(NVMEH_OPTIONS_CHANNEL, &o));
    IS(nvmeh_options_set(o, "dept", "1"), -ENOENT);
    SAYS("depth, io_timeout_ms, max_retries");
    IS(nvmeh_options_set(o, "depth", "many"), -EINVAL);
    SAYS("option depth: \"many\" is no number");
    IS(nvmeh_options_set(o, "depth", "0"), -EINVAL);
    SAYS("within 1 to 65536");
    IS(nvmeh_options_set(o, "io_timeout_ms", "forever"), -EINVAL);
    IS(nvmeh_options_set(o, NULL, "1"), -EFAULT);
    IS(nvmeh_options_set(o, "depth", NULL), -EFAULT);
    IS(nvmeh_options_set(o, "depth", "\xff"), -EINVAL);
    MUST(nvmeh_options_set_u64(o, "max_parked_age_ms", NVMEH_FOREVER));
    IS(nvmeh_options_get(o, "max_parked_age_ms", text, sizeof text), 7);
    IS(strcmp(text, "forever"), 0);
    IS(nvmeh_options_get(o, "max_parked_age_ms", text, 4), 7);
    IS(strcmp(text, "for"), 0);
    IS(nvmeh_host_new(o, &h), -EINVAL);
    MUST(nvmeh_options_new(NVMEH_OPTIONS_HOST, &other));
    IS(nvmeh_options_set(other, "hostnqn", "no name"), -EINVAL);
    IS(nvmeh_options_set(other, "hostid", "7"), -EINVAL);
    IS(nvmeh_options_set(other, "policy", "dice"), -EINVAL);
    SAYS("queue-depth");
    MUST(nvmeh_options_set_bool(other, "control_thread", 0));
    MUST(nvmeh_host_new(other, &h));
    IS(nvmeh_host_drive(h, 0) >= 0, 1);
    MUST(nvmeh_host_shutdown(h));
    IS(nvmeh_host_drive(h, 0), 0);
    nvmeh_host_destroy(h);
    nvmeh_options_free(other);
    nvmeh_options_free(o);
    IS(nvmeh_host_connect(host, "ftp://x", NULL, NULL), -EPROTONOSUPPORT);
    SAYS("tcp, vfio");
    IS(nvmeh_host_connect(host, "tcp://", NULL, NULL), -EINVAL);
    IS(nvmeh_host_set_delayed_removal(host, 9, 1), -EINVAL);
}

static void requests(void) {
    struct nvmeh_geometry g;
    struct nvmeh_head_status tiny;
    struct iovec v[3];
    uint64_t id = 0;
    tiny.size = 4;
    IS(nvmeh_head_get_status(head, &tiny), -EINVAL);
    g.size = sizeof g;
    MUST(nvmeh_head_geometry(head, &g));
    IS(nvmeh_read(channel, head, a, 0, 0, 0), -EINVAL);
    IS(nvmeh_read(channel, head, a, 100, 0, 0), -EINVAL);
    IS(nvmeh_read(channel, head, a, 4096, 100, 0), -EINVAL);
    SAYS("offset 100 is no multiple of the block size");
    IS(nvmeh_read(channel, head, a, 4096, g.bytes, 0), -ERANGE);
    IS(nvmeh_read(channel, head, a, 4096, UINT64_MAX - 4095, 0), -ERANGE);
    IS(nvmeh_read(channel, head, a, 4096, 0, 8), -EINVAL);
    IS(nvmeh_write_zeroes(channel, head, 0, 0, 0), -EINVAL);
    IS(nvmeh_discard(channel, head, 0, 0), -EINVAL);
    IS(nvmeh_discard(channel, head, g.bytes, 4096), -ERANGE);
    v[0].iov_base = a, v[0].iov_len = SIZE_MAX;
    v[1].iov_base = b, v[1].iov_len = 4096;
    IS(nvmeh_readv(channel, head, v, 2, 0, 0), -EOVERFLOW);
    v[0].iov_len = (size_t)1 << 40;
    IS(nvmeh_readv(channel, head, v, 1, 0, 0), -EMSGSIZE);
    v[0].iov_len = 4096, v[1].iov_base = NULL;
    IS(nvmeh_readv(channel, head, v, 2, 0, 0), -EFAULT);
    SAYS("entry 1");
    IS(nvmeh_readv(channel, head, v, 0, 0, 0), -EINVAL);
    IS(nvmeh_readv(channel, head, v, -1, 0, 0), -EINVAL);
    IS(nvmeh_readv(channel, head, v, INT_MAX, 0, 0), -EINVAL);
    IS(nvmeh_channel_cancel(channel, 0), 0);
    IS(nvmeh_channel_cancel(channel, UINT64_MAX), 0);

    /* And what is right. */
    memset(a, 7, sizeof a);
    MUST(nvmeh_write(channel, head, a, 8192, 4096, NVMEH_FUA));
    v[0].iov_base = b + 100, v[0].iov_len = 100;
    v[1].iov_base = b, v[1].iov_len = 0;
    v[2].iov_base = b + 300, v[2].iov_len = 3996;
    MUST(nvmeh_readv(channel, head, v, 3, 4096, 0));
    IS(b[99] == 0 && b[100] == 7 && b[199] == 7 && b[200] == 0 && b[300] == 7 && b[4295] == 7, 1);
    v[0].iov_base = a, v[0].iov_len = 512;
    v[1].iov_base = a + 4096, v[1].iov_len = 3584;
    memset(a, 9, 512);
    MUST(nvmeh_writev(channel, head, v, 2, 4096, 0));
    MUST(nvmeh_read(channel, head, b, 4096, 4096, 0));
    IS(b[0] == 9 && b[511] == 9 && b[512] == 7 && b[4095] == 7, 1);
    MUST(nvmeh_compare(channel, head, b, 4096, 4096, 0));
    b[5] = 0;
    IS(nvmeh_compare(channel, head, b, 4096, 4096, 0), -EILSEQ);
    MUST(nvmeh_write_zeroes(channel, head, 4096, 4096, 0));
    MUST(nvmeh_read(channel, head, b, 4096, 4096, 0));
    IS(b[0] == 0 && b[4095] == 0, 1);
    MUST(nvmeh_discard(channel, head, 8192, 4096));
    MUST(nvmeh_flush(channel, head));

    /* Batches without callbacks. */
    {
        struct nvmeh_completion c[4];
        int got = 0, at;
        for (at = 0; at < 4; at++)
            MUST(nvmeh_submit_read(channel, head, a, 4096, 0, 0, NULL, &c[at], &id));
        while (got < 4) {
            c[got].size = sizeof c[0];
            at = nvmeh_channel_reap(channel, c + got, (size_t)(4 - got));
            MUST(at);
            got += at;
        }
        for (at = 0; at < 4; at++)
            IS(c[at].result == 0 && c[at].arg == &c[at] && c[at].size == sizeof c[0], 1);
        IS(nvmeh_channel_cancel(channel, id), 0);
    }
}

static void *elsewhere(void *expected) {
    IS(nvmeh_channel_poll(channel, 0), *(int *)expected);
    return NULL;
}

static void threads(void) {
    pthread_t thread;
    int expected = -EPERM;
    IS(pthread_create(&thread, NULL, elsewhere, &expected), 0);
    pthread_join(thread, NULL);
}

static void blocks(const struct nvmeh_completion *c, void *arg) {
    struct nvmeh_channel *second = arg;
    struct timespec t = {0, 200000000};
    IS(c->result, 0);
    nanosleep(&t, NULL);
    /* A callback may wait for a request of its own channel, and of others. */
    MUST(nvmeh_read(channel, head, a, 4096, 0, 0));
    MUST(nvmeh_read(second, head, a, 4096, 0, 0));
    MUST(nvmeh_submit_flush(channel, head, count, NULL, NULL));
    IS(nvmeh_channel_poll(channel, 0) >= 0, 1);
    calls++;
}

static void callbacks(void) {
    struct nvmeh_channel *second;
    MUST(nvmeh_channel_new(host, NULL, &second));
    MUST(nvmeh_submit_read(channel, head, b, 4096, 0, 0, blocks, second, NULL));
    while (calls < 2) {
        MUST(nvmeh_channel_wait(channel, 100));
        MUST(nvmeh_channel_poll(channel, 0));
    }
    nvmeh_channel_destroy(second);
}

static void full(void) {
    struct nvmeh_options *o;
    struct nvmeh_channel *small;
    int at;
    MUST(nvmeh_options_new(NVMEH_OPTIONS_CHANNEL, &o));
    MUST(nvmeh_options_set(o, "depth", "2"));
    MUST(nvmeh_channel_new(host, o, &small));
    nvmeh_options_free(o);
    calls = 0;
    for (at = 0; at < 2; at++)
        MUST(nvmeh_submit_flush(small, head, count, NULL, NULL));
    IS(nvmeh_submit_flush(small, head, count, NULL, NULL), -EAGAIN);
    while (calls < 2)
        MUST(nvmeh_channel_poll(small, 1));
    nvmeh_channel_destroy(small);
}

#ifdef HOOKS
int nvmeh_test_panic(struct nvmeh_head *head);
static void panics(void) {
    struct nvmeh_head *h;
    MUST(nvmeh_host_head(host, NULL, 1, 0, &h));
    IS(nvmeh_test_panic(h), -ENOTRECOVERABLE);
    SAYS("on purpose");
    IS(nvmeh_head_remove_now(h), -ENOTRECOVERABLE);
    nvmeh_head_free(h);
    IS(nvmeh_head_remove_now(h), -EBADF);
}
#endif

int main(int argc, char **argv) {
    IS(argc, 2);
    MUST(nvmeh_host_new(NULL, &host));
    MUST(nvmeh_host_connect(host, argv[1], NULL, &controller));
    MUST(nvmeh_controller_wait_ready(controller, 20000));
    MUST(nvmeh_host_head(host, NULL, 1, 20000, &head));
    MUST(nvmeh_channel_new(host, NULL, &channel));
    nulls();
    freed();
    options();
    requests();
    threads();
    callbacks();
    full();
#ifdef HOOKS
    panics();
#endif
    nvmeh_channel_destroy(channel);
    nvmeh_head_free(head);
    nvmeh_controller_free(controller);
    MUST(nvmeh_host_shutdown(host));
    IS(nvmeh_host_connect(host, argv[1], NULL, NULL), -ESHUTDOWN);
    nvmeh_host_destroy(host);
    printf("good\n");
    return 0;
}
