/* The shutdown matrix: one cell, matrix URL STATE ACTION. 0: the documented answer (ffi/README.md).
 *
 * As a program it is linked with the library. For the action `dlclose` it is a plug-in that the program
 * loader.c loads, which then closes it. */
#define _POSIX_C_SOURCE 200809L
#include "matrix.h"
#include "must.h"

#include <errno.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct scene scene;
static unsigned char block[4096];
static unsigned ended;
static int result;

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: not %s (%s)\n", __FILE__, __LINE__, #what, nvmeh_last_error()); \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static int is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static void done(const struct nvmeh_completion *c, void *arg) {
    (void)arg;
    ended++;
    result = c->result;
}

static void poll_for(unsigned ms) {
    struct timespec t = {0, 1000000};
    unsigned at;
    for (at = 0; at < ms; at++) {
        if (nvmeh_channel_poll(scene.channel, 0) < 0)
            return;
        nanosleep(&t, NULL);
    }
}

static void lose_the_path(void) {
    struct nvmeh_head_status s;
    MUST(nvmeh_controller_disconnect(scene.controller));
    do {
        poll_for(1);
        s.size = sizeof s;
        MUST(nvmeh_head_get_status(scene.head, &s));
    } while (s.state != NVMEH_HEAD_REMOVAL_PENDING);
}

/* Makes the state. The request, if there is one, is answered to `callback`. */
void prepare(struct scene *out, const char *url, const char *state, nvmeh_callback callback, void *arg) {
    struct nvmeh_options *o;
    memset(&scene, 0, sizeof scene);
    ended = 0;
    MUST(nvmeh_options_new(NVMEH_OPTIONS_HOST, &o));
    MUST(nvmeh_options_set(o, "delayed_removal_ms", is(state, "pending") ? "60000" : "forever"));
    MUST(nvmeh_host_new(o, &scene.host));
    nvmeh_options_free(o);
    MUST(nvmeh_host_connect(scene.host, url, NULL, &scene.controller));
    MUST(nvmeh_controller_wait_ready(scene.controller, 20000));
    MUST(nvmeh_host_head(scene.host, NULL, 1, 20000, &scene.head));
    MUST(nvmeh_channel_new(scene.host, NULL, &scene.channel));
    MUST(nvmeh_flush(scene.channel, scene.head));
    if (is(state, "eventfd")) {
        MUST(nvmeh_events_new(scene.host, 16, &scene.events));
        MUST(nvmeh_events_fd(scene.events));
    }
    if (is(state, "pin"))
        MUST(nvmeh_pin_take(scene.host, "the matrix", &scene.pin));
    if (is(state, "parked") || is(state, "pending"))
        lose_the_path();
    if (is(state, "parked") || is(state, "inflight"))
        MUST(nvmeh_submit_read(scene.channel, scene.head, block, sizeof block, 0, 0, done, NULL, NULL));
    if (is(state, "parked")) {
        poll_for(1);
        CHECK(nvmeh_channel_parked(scene.channel) == 1);
    }
    if (is(state, "inflight")) {
        poll_for(20);
        CHECK(ended == 0 && nvmeh_channel_in_flight(scene.channel) == 1);
    }
    if (callback)
        MUST(nvmeh_submit_flush(scene.channel, scene.head, callback, arg, NULL));
    scene.poll = nvmeh_channel_poll;
    if (out)
        *out = scene;
}

static void free_one(int which) {
    switch (which) {
    case 0: nvmeh_host_destroy(scene.host); break;
    case 1: nvmeh_controller_free(scene.controller); break;
    case 2: nvmeh_head_free(scene.head); break;
    case 3: nvmeh_channel_destroy(scene.channel); break;
    case 4: nvmeh_events_free(scene.events); break;
    default: nvmeh_pin_release(scene.pin); break;
    }
}

static void free_all(unsigned first, int backwards) {
    unsigned at;
    for (at = 0; at < 6; at++)
        free_one((int)((first + (backwards ? 5 * at : at)) % 6));
}

static const char *state_, *action_;

static void shut_down(void) {
    int busy = is(state_, "parked") || is(state_, "pending") || is(state_, "pin");
    int r = nvmeh_host_shutdown(scene.host);
    CHECK(r == (busy ? -EBUSY : 0));
    if (busy) {
        /* Nothing was done: it says who holds what, and everything works as before. */
        struct nvmeh_pin_holder holder;
        holder.size = sizeof holder;
        CHECK(nvmeh_pin_holders(scene.host, &holder, 1) == 1);
        CHECK(holder.kind == (is(state_, "pin") ? NVMEH_PIN_USER : NVMEH_PIN_PENDING_REMOVAL));
        CHECK(strlen(holder.reason) > 0);
        if (is(state_, "pin"))
            MUST(nvmeh_flush(scene.channel, scene.head));
        return;
    }
    CHECK(nvmeh_submit_flush(scene.channel, scene.head, done, NULL, NULL) == 0);
    poll_for(50);
    CHECK(result == -ESHUTDOWN);
    CHECK(ended == (is(state_, "inflight") ? 2u : 1u));
}

static void force(void) {
    int r = nvmeh_host_shutdown_forced(scene.host, 100);
    CHECK(r == (is(state_, "pin") ? -EBUSY : 0));
    if (is(state_, "pin")) {
        nvmeh_pin_release(scene.pin);
        scene.pin = NULL;
        CHECK(nvmeh_host_shutdown_forced(scene.host, 1000) == 0);
    }
    CHECK(nvmeh_pin_count(scene.host) == 0);
    poll_for(50);
    if (is(state_, "parked") || is(state_, "inflight"))
        CHECK(ended == 1 && (result == -ESHUTDOWN || result == -ENODEV));
}

static void in_child(void) {
    unsigned char byte[4096];
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(nvmeh_pin_count(scene.host) == -ECHILD);
        CHECK(nvmeh_host_shutdown(scene.host) == -ECHILD);
        CHECK(nvmeh_channel_poll(scene.channel, 0) == -ECHILD);
        CHECK(nvmeh_read(scene.channel, scene.head, byte, sizeof byte, 0, 0) == -ECHILD);
        CHECK(nvmeh_controller_disconnect(scene.controller) == -ECHILD);
        free_all(0, 0);
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    /* The parent goes on. */
    if (!is(state_, "parked") && !is(state_, "pending"))
        MUST(nvmeh_flush(scene.channel, scene.head));
}

static void act(void) {
    if (is(action_, "shutdown"))
        shut_down();
    else if (is(action_, "forced"))
        force();
    else if (is(action_, "fork"))
        in_child();
    else if (is(action_, "exit"))
        exit(0);
}

static void acting(const struct nvmeh_completion *c, void *arg) {
    (void)arg;
    CHECK(c->result == 0);
    act();
    if (is(action_, "drop"))
        free_all(3, 0);
    scene.channel = is(action_, "drop") ? NULL : scene.channel;
    *(int *)arg = 1;
}

#ifndef PLUGIN
int main(int argc, char **argv) {
    const char *url_;
    unsigned round;
    int acted = 0;
    CHECK(argc == 4);
    url_ = argv[1], state_ = argv[2], action_ = argv[3];
    if (is(state_, "callback")) {
        prepare(NULL, url_, state_, acting, &acted);
        while (!acted) {
            struct timespec t = {0, 1000000};
            /* A callback that destroys its channel ends the loop with it. */
            if (nvmeh_channel_poll(scene.channel, 0) < 0)
                break;
            nanosleep(&t, NULL);
        }
        CHECK(acted);
        if (!is(action_, "drop"))
            free_all(0, 0);
        return 0;
    }
    if (is(action_, "drop")) {
        for (round = 0; round < 12; round++) {
            prepare(NULL, url_, state_, NULL, NULL);
            free_all(round % 6, round >= 6);
            CHECK(ended == (is(state_, "inflight") || is(state_, "parked") ? 1u : 0u));
            CHECK(ended == 0 || result == -ECANCELED);
        }
        return 0;
    }
    prepare(NULL, url_, state_, NULL, NULL);
    act();
    if (is(action_, "shutdown") || is(action_, "fork"))
        CHECK(nvmeh_host_shutdown_forced(scene.host, 100) == (is(state_, "pin") ? -EBUSY : 0));
    free_all(0, 0);
    return 0;
}
#endif
