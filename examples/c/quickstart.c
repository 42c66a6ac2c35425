/* One namespace, two paths, and a head that outlives both of them: from C, on a plain epoll loop.
 *
 *     mkfifo faults
 *     nvmeh target --listen 127.0.0.1:4420 127.0.0.1:4421 --ns 64M --faults < faults &
 *     cc $(pkg-config --cflags nvmehost) quickstart.c $(pkg-config --libs nvmehost) -o quickstart
 *     ./quickstart tcp://127.0.0.1:4420/NQN tcp://127.0.0.1:4421/NQN 3000 faults
 *
 * It writes and reads back the first 2 MiB of namespace 1 (DESTROYS DATA) with 32 requests under way,
 * and has the paths cut: A, then B, so that the removal is scheduled and requests wait; B comes back in
 * time, and A; then both go for longer than the head waits (3,000 ms). It exits with 0 only if nothing was
 * lost or damaged, and every pin was given back.
 *
 * The target cuts them, as the lines that are written to the last argument say: "down 1", "up 1". Without
 * it, which is for targets that take no orders, paths are disconnected and connected anew instead.
 */
#define _POSIX_C_SOURCE 200809L
#include <nvmehost.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 32
#define BYTES 65536u
#define LIMIT 20000.0 /* ms that any step may take */

struct slot {
    unsigned char *data;
    uint64_t offset;
    uint64_t round;
    int reading;
    int busy;
};

struct stage {
    struct nvmeh_host *host;
    struct nvmeh_controller *path[2];
    const char *url[2];
    struct nvmeh_options *options;
    struct nvmeh_head *head;
    struct nvmeh_channel *channel;
    struct nvmeh_events *events;
    FILE *faults; /* NULL: paths are disconnected */
    int epoll;
    int stopping;
    struct slot slot[SLOTS];
    unsigned long done, damaged, failed, gone, scheduled, cancelled, removed;
    double begun;
};

static struct stage stage;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void say(const char *who, const char *format, ...) {
    va_list list;
    va_start(list, format);
    printf("%7.3f s  %-8s ", (now_ms() - stage.begun) / 1e3, who);
    vprintf(format, list);
    printf("\n");
    fflush(stdout);
    va_end(list);
}

static void must(int result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "quickstart: %s: %s\n", what, nvmeh_last_error());
        exit(1);
    }
}

/* What slot `s` writes in its round: every byte depends on both. */
static unsigned char byte_of(const struct slot *s, size_t at) {
    return (unsigned char)(at * 31u + s->round * 7u + s->offset / BYTES);
}

static void next(struct slot *s);

static void ended(const struct nvmeh_completion *c, void *arg) {
    struct slot *s = arg;
    size_t at;
    s->busy = 0;
    if (c->result == -ENODEV || c->result == -EHOSTUNREACH) {
        stage.gone++; /* the head was removed, as the time line wants it */
        return;
    }
    if (c->result != 0) {
        say("work", "a request failed: %s", nvmeh_strerror(c->result));
        stage.failed++;
        return;
    }
    stage.done++;
    if (s->reading) {
        for (at = 0; at < BYTES && s->data[at] == byte_of(s, at); at++) {
        }
        stage.damaged += at < BYTES;
    }
    next(s); /* a callback may submit */
}

static void next(struct slot *s) {
    size_t at;
    int result;
    if (stage.stopping && s->reading)
        return;
    s->reading = !s->reading;
    if (s->reading) {
        memset(s->data, 0, BYTES);
        result = nvmeh_submit_read(stage.channel, stage.head, s->data, BYTES, s->offset, 0, ended, s, NULL);
    } else {
        s->round++;
        for (at = 0; at < BYTES; at++)
            s->data[at] = byte_of(s, at);
        result = nvmeh_submit_write(stage.channel, stage.head, s->data, BYTES, s->offset, 0, ended, s, NULL);
    }
    must(result, "submitting");
    s->busy = 1;
}

static void take_events(void) {
    struct nvmeh_event e;
    e.size = sizeof e;
    while (nvmeh_events_next(stage.events, 0, &e) == 1) {
        switch (e.kind) {
        case NVMEH_EVENT_PATH_UP:
            say("path", "%s can be used", e.address);
            break;
        case NVMEH_EVENT_PATH_DOWN:
            say("path", "%s is lost", e.address);
            break;
        case NVMEH_EVENT_REMOVAL_SCHEDULED:
            stage.scheduled++;
            say("head", "no path is left; removal in %.1f s", (double)e.value / 1e3);
            break;
        case NVMEH_EVENT_REMOVAL_CANCELLED:
            stage.cancelled++;
            say("head", "a path is back after %.1f s; the head stays", (double)e.value / 1e3);
            break;
        case NVMEH_EVENT_HEAD_REMOVED:
            stage.removed++;
            say("head", "removed");
            break;
        default:
            break;
        }
        e.size = sizeof e;
    }
}

/* One turn of the loop: sleeps until something is to be done, at most `ms`. */
static void turn(int ms) {
    struct epoll_event ready[4];
    int sleep = nvmeh_channel_arm(stage.channel);
    must(sleep, "arming");
    if (epoll_wait(stage.epoll, ready, 4, sleep ? ms : 0) < 0 && errno != EINTR)
        must(-errno, "epoll");
    must(nvmeh_channel_poll(stage.channel, 0), "polling");
    take_events();
}

static void play(double ms) {
    double until = now_ms() + ms;
    while (now_ms() < until)
        turn(10);
}

static struct nvmeh_head_status status(void) {
    struct nvmeh_head_status s;
    s.size = sizeof s;
    must(nvmeh_head_get_status(stage.head, &s), "reading the head's state");
    return s;
}

static int state_is(int state) { return status().state == state; }
static int paths_are(int count) { return status().usable_paths == (unsigned)count; }
static int pins_are(int count) { return nvmeh_pin_count(stage.host) == count; }
static int waiting(int least) { return nvmeh_channel_parked(stage.channel) >= least; }
static int more_done(int than) { return stage.done > (unsigned)than; }
static int idle(int unused) {
    int at, busy = unused;
    for (at = 0; at < SLOTS; at++)
        busy += stage.slot[at].busy;
    return busy == 0;
}

static void until(const char *what, int (*is)(int), int argument) {
    double limit = now_ms() + LIMIT;
    while (!is(argument)) {
        if (now_ms() > limit) {
            fprintf(stderr, "quickstart: %s did not happen\n", what);
            exit(1);
        }
        turn(10);
    }
}

static void attach(int at) {
    nvmeh_controller_free(stage.path[at]);
    must(nvmeh_host_connect(stage.host, stage.url[at], stage.options, &stage.path[at]), "connecting");
}

static void order(const char *what, int at) {
    if (fprintf(stage.faults, "%s %d\n", what, at + 1) < 0 || fflush(stage.faults) != 0)
        must(-errno, "telling the target");
}

/* Takes a path away. */
static void cut(int at) {
    if (stage.faults)
        order("down", at);
    else
        must(nvmeh_controller_disconnect(stage.path[at]), "disconnecting");
}

/* And brings it back: the library tries again by itself, unless it was told to disconnect. */
static void restore(int at) {
    if (stage.faults)
        order("up", at);
    else
        attach(at);
}

static void watch(int fd) {
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = EPOLLIN;
    must(fd, "a descriptor");
    must(epoll_ctl(stage.epoll, EPOLL_CTL_ADD, fd, &e), "epoll");
}

static void set_up(uint64_t window) {
    struct nvmeh_options *o;
    char nqn[256];
    int at;
    must(nvmeh_options_new(NVMEH_OPTIONS_HOST, &o), "options");
    must(nvmeh_options_set_u64(o, "delayed_removal_ms", window), "options");
    must(nvmeh_host_new(o, &stage.host), "making a host");
    nvmeh_options_free(o);
    must(nvmeh_options_new(NVMEH_OPTIONS_CONTROLLER, &stage.options), "options");
    must(nvmeh_options_set(stage.options, "connect_timeout_ms", "5000"), "options");
    /* A path that is lost leaves its head at once, and is tried again all the same. */
    must(nvmeh_options_set(stage.options, "ctrl_loss_tmo_ms", "0"), "options");
    must(nvmeh_options_set(stage.options, "reattach_delay_ms", "100"), "options");
    must(nvmeh_events_new(stage.host, 1024, &stage.events), "subscribing");
    for (at = 0; at < 2; at++) {
        attach(at);
        must(nvmeh_controller_wait_ready(stage.path[at], 20000), stage.url[at]);
    }
    must(nvmeh_controller_subsystem(stage.path[0], nqn, sizeof nqn), "the subsystem");
    must(nvmeh_host_head(stage.host, nqn, 1, 20000, &stage.head), "the head");
    must(nvmeh_channel_new(stage.host, NULL, &stage.channel), "making a channel");
    stage.epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(nvmeh_channel_fd(stage.channel));
    watch(nvmeh_events_fd(stage.events));
    for (at = 0; at < SLOTS; at++) {
        stage.slot[at].data = malloc(BYTES);
        stage.slot[at].offset = (uint64_t)at * BYTES;
        stage.slot[at].reading = 1;
        next(&stage.slot[at]);
    }
}

static void tear_down(void) {
    int at;
    must(nvmeh_host_shutdown(stage.host), "shutting down");
    nvmeh_channel_destroy(stage.channel);
    nvmeh_events_free(stage.events);
    nvmeh_head_free(stage.head);
    for (at = 0; at < 2; at++)
        nvmeh_controller_free(stage.path[at]);
    nvmeh_options_free(stage.options);
    nvmeh_host_destroy(stage.host);
    close(stage.epoll);
    if (stage.faults)
        fclose(stage.faults);
    for (at = 0; at < SLOTS; at++)
        free(stage.slot[at].data);
}

int main(int argc, char **argv) {
    uint64_t window = argc > 3 ? strtoull(argv[3], NULL, 10) : 3000;
    int good;
    if (argc < 3 || window == 0) {
        fprintf(stderr, "usage: %s URL URL [WINDOW_MS [FAULTS]]\n", argv[0]);
        return 2;
    }
    if (argc > 4 && !(stage.faults = fopen(argv[4], "w"))) {
        perror(argv[4]);
        return 2;
    }
    stage.begun = now_ms();
    stage.url[0] = argv[1];
    stage.url[1] = argv[2];
    set_up(window);
    until("two paths", paths_are, 2);
    until("work", more_done, 0);
    play(300);

    say(">>", "path A goes");
    cut(0);
    until("one path", paths_are, 1);
    until("work", more_done, (int)stage.done + SLOTS);

    say(">>", "path B goes, too");
    cut(1);
    until("the schedule of the removal", state_is, NVMEH_HEAD_REMOVAL_PENDING);
    until("requests that wait", waiting, 1);
    say("work", "%d requests wait, %d pin", nvmeh_channel_parked(stage.channel), nvmeh_pin_count(stage.host));
    until("the pin", pins_are, 1);

    say(">>", "path B comes back in time, and path A");
    restore(1);
    until("one path", paths_are, 1);
    until("the return of the pin", pins_are, 0);
    restore(0);
    until("two paths", paths_are, 2);
    until("work", more_done, (int)stage.done + SLOTS);
    say("work", "goes on; %lu requests done", stage.done);

    say(">>", "both paths go for longer than the head waits");
    cut(0);
    cut(1);
    until("the schedule of the removal", state_is, NVMEH_HEAD_REMOVAL_PENDING);
    until("the removal", state_is, NVMEH_HEAD_GONE);
    until("the return of the pin", pins_are, 0);
    stage.stopping = 1;
    until("the end of the requests", idle, 0);
    play(20);

    good = stage.damaged == 0 && stage.failed == 0 && stage.gone > 0 && stage.scheduled == 2 &&
           stage.cancelled == 1 && stage.removed == 1;
    tear_down();
    printf("done %lu, damaged %lu, failed %lu, failed with the removal %lu; removals scheduled %lu, "
           "cancelled %lu, carried out %lu: %s\n",
           stage.done, stage.damaged, stage.failed, stage.gone, stage.scheduled, stage.cancelled,
           stage.removed, good ? "good" : "NOT GOOD");
    return good ? 0 : 1;
}
