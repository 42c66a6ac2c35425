/* A program that loads libnvmehost as a plug-in, and unloads it while a removal is pending.
 *
 *     cc plugin_host.c -ldl -lpthread -o plugin_host
 *     ./plugin_host /path/to/libnvmehost.so.0 URL [WINDOW_MS [PART]]
 *
 * Part 1: a thread makes a host without a thread of the library's, takes a pin, frees the host, and ends.
 * The program calls dlclose(), and gives the pin back after that. A library that does not hold itself is
 * unmapped by dlclose(), and the program dies of a call to where it was.
 *
 * Part 2: a thread loads the library, connects, lets the last path go so that the removal of the head is
 * scheduled, frees every handle, and ends. Then the program calls dlclose(), and waits past the
 * deadline. The library must live on until the removal has been carried out and its pin given back,
 * and be unmapped after that.
 *
 * Part 3: the same with a pin of the program's own, which is given back after
 * dlclose(): the library is unmapped when that call returns.
 *
 * (The library is used by a thread of its own because glibc keeps an object mapped for as long as a
 * thread lives that has used thread-local data with a destructor in it.)
 */
#define _GNU_SOURCE
#include <nvmehost.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *path;
static const char *url;
static unsigned window = 1500;
static void *library;
static void *an_address;
static struct nvmeh_pin *own_pin;
static void (*release)(struct nvmeh_pin *);

static void die(const char *what, const char *why) {
    fprintf(stderr, "plugin_host: %s: %s\n", what, why ? why : "?");
    exit(1);
}

/* Converts a pointer to an object into one to a function, as POSIX wants it to work. */
static void find(void *function, const char *name) {
    void *address = dlsym(library, name);
    if (!address)
        die(name, dlerror());
    memcpy(function, &address, sizeof address);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void nap(void) {
    struct timespec t = {0, 5000000};
    nanosleep(&t, NULL);
}

/* Whether the kernel has the object mapped. */
static int mapped(void) {
    char line[4096];
    int found = 0;
    const char *name = strrchr(path, '/');
    FILE *maps = fopen("/proc/self/maps", "r");
    name = name ? name + 1 : path;
    if (!maps)
        die("/proc/self/maps", "cannot be read");
    while (fgets(line, sizeof line, maps))
        found |= strstr(line, "libnvmehost.so") != NULL || strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

static int known(void) {
    Dl_info info;
    return dladdr(an_address, &info) != 0;
}

static void *use(void *keep_pin) {
    int (*options_new)(int, struct nvmeh_options **);
    int (*options_set)(struct nvmeh_options *, const char *, uint64_t);
    void (*options_free)(struct nvmeh_options *);
    int (*host_new)(const struct nvmeh_options *, struct nvmeh_host **);
    int (*host_connect)(struct nvmeh_host *, const char *, const struct nvmeh_options *, struct nvmeh_controller **);
    int (*host_head)(struct nvmeh_host *, const char *, uint32_t, uint64_t, struct nvmeh_head **);
    int (*wait_ready)(struct nvmeh_controller *, uint64_t);
    int (*disconnect)(struct nvmeh_controller *);
    int (*head_status)(const struct nvmeh_head *, struct nvmeh_head_status *);
    int (*pin_count)(const struct nvmeh_host *);
    int (*pin_take)(struct nvmeh_host *, const char *, struct nvmeh_pin **);
    void (*controller_free)(struct nvmeh_controller *);
    void (*head_free)(struct nvmeh_head *);
    void (*host_destroy)(struct nvmeh_host *);
    const char *(*last_error)(void);
    struct nvmeh_options *options;
    struct nvmeh_host *host;
    struct nvmeh_controller *controller;
    struct nvmeh_head *head;
    struct nvmeh_head_status status;

    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        die("dlopen", dlerror());
    an_address = dlsym(library, "nvmeh_version");
    find(&options_new, "nvmeh_options_new");
    find(&options_set, "nvmeh_options_set_u64");
    find(&options_free, "nvmeh_options_free");
    find(&host_new, "nvmeh_host_new");
    find(&host_connect, "nvmeh_host_connect");
    find(&host_head, "nvmeh_host_head");
    find(&wait_ready, "nvmeh_controller_wait_ready");
    find(&disconnect, "nvmeh_controller_disconnect");
    find(&head_status, "nvmeh_head_get_status");
    find(&pin_count, "nvmeh_pin_count");
    find(&pin_take, "nvmeh_pin_take");
    find(&release, "nvmeh_pin_release");
    find(&controller_free, "nvmeh_controller_free");
    find(&head_free, "nvmeh_head_free");
    find(&host_destroy, "nvmeh_host_destroy");
    find(&last_error, "nvmeh_last_error");

    if (options_new(NVMEH_OPTIONS_HOST, &options) || options_set(options, "delayed_removal_ms", window) ||
        host_new(options, &host) || host_connect(host, url, NULL, &controller) ||
        wait_ready(controller, 20000) || host_head(host, NULL, 1, 20000, &head) || disconnect(controller))
        die("set-up", last_error());
    do {
        nap();
        status.size = sizeof status;
        if (head_status(head, &status))
            die("state", last_error());
    } while (status.state != NVMEH_HEAD_REMOVAL_PENDING);
    if (keep_pin && pin_take(host, "plugin_host's own", &own_pin))
        die("pin", last_error());
    printf("the removal is pending, %d pin(s) out\n", pin_count(host));
    controller_free(controller);
    head_free(head);
    options_free(options);
    host_destroy(host);
    return NULL;
}

/* Nothing but a pin keeps the library: no thread of its own, and none of ours that has used it. */
static void *only_a_pin(void *unused) {
    int (*options_new)(int, struct nvmeh_options **);
    int (*options_set)(struct nvmeh_options *, const char *, uint64_t);
    void (*options_free)(struct nvmeh_options *);
    int (*host_new)(const struct nvmeh_options *, struct nvmeh_host **);
    int (*pin_take)(struct nvmeh_host *, const char *, struct nvmeh_pin **);
    void (*host_destroy)(struct nvmeh_host *);
    const char *(*last_error)(void);
    struct nvmeh_options *options;
    struct nvmeh_host *host = NULL;

    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        die("dlopen", dlerror());
    an_address = dlsym(library, "nvmeh_version");
    find(&options_new, "nvmeh_options_new");
    find(&options_set, "nvmeh_options_set_u64");
    find(&options_free, "nvmeh_options_free");
    find(&host_new, "nvmeh_host_new");
    find(&pin_take, "nvmeh_pin_take");
    find(&release, "nvmeh_pin_release");
    find(&host_destroy, "nvmeh_host_destroy");
    find(&last_error, "nvmeh_last_error");
    if (options_new(NVMEH_OPTIONS_HOST, &options) || options_set(options, "control_thread", 0) ||
        host_new(options, &host) || pin_take(host, "plugin_host's only", &own_pin))
        die("set-up", last_error());
    options_free(options);
    host_destroy(host);
    return unused;
}

static void in_a_thread(void *(*f)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, f, argument) || pthread_join(thread, NULL))
        die("thread", "cannot be had");
}

static void part_1(void) {
    in_a_thread(only_a_pin, NULL);
    if (dlclose(library))
        die("dlclose", dlerror());
    printf("dlclose() was called with a pin out: %s\n", mapped() ? "mapped" : "unmapped");
    fflush(stdout);
    release(own_pin);
    if (mapped() || known())
        die("the library", "was not unmapped with its only pin");
    printf("the pin is given back: unmapped\n");
}

static void part_2(void) {
    double closed, gone;
    int was_mapped;
    in_a_thread(use, NULL);
    closed = now();
    if (dlclose(library))
        die("dlclose", dlerror());
    was_mapped = mapped() && known();
    printf("dlclose() was called with the removal pending; the library is %s\n",
           was_mapped ? "still mapped" : "unmapped");
    fflush(stdout);
    while (mapped() && now() - closed < window / 1e3 + 30)
        nap();
    gone = now() - closed;
    if (mapped() || known())
        die("the library", "was not unmapped after the deadline");
    printf("unmapped %.2f s after dlclose(), the window was %.2f s\n", gone, window / 1e3);
    if (!was_mapped || gone < window / 1e3 * 0.5)
        die("the library", "was unmapped with a pin out");
}

static void part_3(void) {
    double closed;
    in_a_thread(use, &own_pin);
    if (dlclose(library))
        die("dlclose", dlerror());
    closed = now();
    while (now() - closed < window / 1e3 + 1) {
        if (!mapped() || !known())
            die("the library", "was unmapped with the program's pin out");
        nap();
    }
    printf("past the deadline with a pin of our own: still mapped\n");
    release(own_pin);
    /* The control thread, which had waited for the pin, ends by itself. */
    closed = now();
    while (mapped() && now() - closed < 30)
        nap();
    if (mapped() || known())
        die("the library", "was not unmapped after the last pin");
    printf("the pin is given back: unmapped\n");
}

int main(int argc, char **argv) {
    int part = argc > 4 ? atoi(argv[4]) : 0;
    if (argc < 3) {
        fprintf(stderr, "usage: %s LIBRARY URL [WINDOW_MS [PART]]\n", argv[0]);
        return 2;
    }
    path = argv[1];
    url = argv[2];
    if (argc > 3)
        window = (unsigned)atoi(argv[3]);
    if (part == 0 || part == 1)
        part_1();
    if (part == 0 || part == 2)
        part_2();
    if (part == 0 || part == 3)
        part_3();
    printf("good\n");
    return 0;
}
