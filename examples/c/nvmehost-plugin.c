/* An nbdkit plugin: a multipath NVMe namespace as an NBD disk, without the kernel's NVMe.
 *
 *     nbdkit ./nvmehost-plugin.so url=tcp://HOST:4420/NQN url=tcp://HOST:4421/NQN delayed-removal=30
 *
 * With it qemu-img, nbdcopy, qemu-io and any NBD client use the namespace. Requests come in on
 * many threads at once (thread model parallel). A channel is one thread's at a time, so there is a
 * pool of them: a request takes the one that was used last, makes it its thread's, and gives it
 * back. So there are never more queues at the controllers than requests at once, however many
 * connections and threads nbdkit has.
 */
#define _POSIX_C_SOURCE 200809L
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>
#include <nvmehost.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define URLS 16
#define CHANNELS 256
#define DEFAULT_CHANNELS 16
#define SHUTDOWN_MS 5000

static struct {
    const char *url[URLS];
    unsigned urls;
    unsigned channels;
    unsigned nsid;
    const char *nqn;
    uint64_t connect_ms;
    struct nvmeh_options *host, *controller, *channel;
} asked = {.channels = DEFAULT_CHANNELS, .nsid = 1, .connect_ms = 30000};

static struct nvmeh_host *host;
static struct nvmeh_controller *controller[URLS];
static struct nvmeh_head *head;

/* Channels that nobody uses: the one used last on top. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t one_is_back;
    struct nvmeh_channel *idle[CHANNELS];
    unsigned idles, made;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .one_is_back = PTHREAD_COND_INITIALIZER};

/* ---- configuration ------------------------------------------------------------------------- */

static void load(void) {
    if (nvmeh_options_new(NVMEH_OPTIONS_HOST, &asked.host) < 0 ||
        nvmeh_options_new(NVMEH_OPTIONS_CONTROLLER, &asked.controller) < 0 ||
        nvmeh_options_new(NVMEH_OPTIONS_CHANNEL, &asked.channel) < 0)
        nbdkit_error("options: %s", nvmeh_last_error());
}

/* Sets an option of the library, of whichever kind knows its name. */
static int set_option(const char *name, const char *value) {
    struct nvmeh_options *kinds[] = {asked.host, asked.controller, asked.channel};
    char unknown[3][1024];
    int at, result;
    for (at = 0; at < 3; at++) {
        result = nvmeh_options_set(kinds[at], name, value);
        if (result >= 0)
            return 0;
        if (result != -ENOENT) {
            nbdkit_error("%s=%s: %s", name, value, nvmeh_last_error());
            return -1;
        }
        strncpy(unknown[at], nvmeh_last_error(), sizeof unknown[at] - 1);
        unknown[at][sizeof unknown[at] - 1] = 0;
    }
    nbdkit_error("option=%s: no such option. Host: %s. Controller: %s. Channel: %s", name, unknown[0],
                 unknown[1], unknown[2]);
    return -1;
}

/* option=NAME=VALUE */
static int set_any_option(const char *text) {
    const char *equals = strchr(text, '=');
    char name[64];
    size_t length = equals ? (size_t)(equals - text) : 0;
    if (length == 0 || length >= sizeof name) {
        nbdkit_error("option=%s: not of the form option=NAME=VALUE", text);
        return -1;
    }
    memcpy(name, text, length);
    name[length] = 0;
    return set_option(name, equals + 1);
}

static int set_delayed_removal(const char *value) {
    char ms[32];
    unsigned seconds;
    if (strcmp(value, "forever") == 0)
        return set_option("delayed_removal_ms", value);
    if (nbdkit_parse_unsigned("delayed-removal", value, &seconds) < 0)
        return -1;
    snprintf(ms, sizeof ms, "%llu", seconds * 1000ULL);
    return set_option("delayed_removal_ms", ms);
}

static int config(const char *key, const char *value) {
    unsigned number;
    if (strcmp(key, "url") == 0) {
        if (asked.urls == URLS) {
            nbdkit_error("more than %d url= parameters", URLS);
            return -1;
        }
        asked.url[asked.urls++] = value; /* nbdkit keeps it */
    } else if (strcmp(key, "nqn") == 0) {
        asked.nqn = value;
    } else if (strcmp(key, "nsid") == 0) {
        if (nbdkit_parse_unsigned(key, value, &asked.nsid) < 0)
            return -1;
    } else if (strcmp(key, "channels") == 0) {
        if (nbdkit_parse_unsigned(key, value, &number) < 0)
            return -1;
        if (number == 0 || number > CHANNELS) {
            nbdkit_error("channels=%u: not within 1 to %d", number, CHANNELS);
            return -1;
        }
        asked.channels = number;
    } else if (strcmp(key, "connect-timeout") == 0) {
        if (nbdkit_parse_unsigned(key, value, &number) < 0)
            return -1;
        asked.connect_ms = number * UINT64_C(1000);
    } else if (strcmp(key, "delayed-removal") == 0) {
        return set_delayed_removal(value);
    } else if (strcmp(key, "policy") == 0) {
        return set_option(key, value);
    } else if (strcmp(key, "fence") == 0) {
        return set_option(key, value);
    } else if (strcmp(key, "option") == 0) {
        return set_any_option(value);
    } else {
        nbdkit_error("unknown parameter '%s'", key);
        return -1;
    }
    return 0;
}

static int config_complete(void) {
    if (asked.urls == 0) {
        nbdkit_error("url=URL is missing, such as url=tcp://192.0.2.7:4420/nqn.2026-01.org.example:sub");
        return -1;
    }
    return 0;
}

/* ---- begin and end --------------------------------------------------------------------------- */

/* Why there is no head: what each controller last met. */
static void tell_why(const char *met) {
    char address[256], error[512];
    unsigned at;
    nbdkit_error("namespace %u: %s", asked.nsid, met);
    for (at = 0; at < asked.urls; at++)
        if (nvmeh_controller_address(controller[at], address, sizeof address) >= 0 &&
            nvmeh_controller_last_error(controller[at], error, sizeof error) > 0)
            nbdkit_error("%s: %s", address, error);
}

/* nbdkit forks before this, and no object of the library outlives a fork. */
static int after_fork(void) {
    unsigned at;
    if (nvmeh_host_new(asked.host, &host) < 0) {
        nbdkit_error("making a host: %s", nvmeh_last_error());
        return -1;
    }
    for (at = 0; at < asked.urls; at++)
        if (nvmeh_host_connect(host, asked.url[at], asked.controller, &controller[at]) < 0) {
            nbdkit_error("url=%s: %s", asked.url[at], nvmeh_last_error());
            return -1;
        }
    /* One path is enough to begin; the others join when they can. */
    if (nvmeh_host_head(host, asked.nqn, asked.nsid, asked.connect_ms, &head) < 0) {
        char met[1024];
        snprintf(met, sizeof met, "%s", nvmeh_last_error());
        tell_why(met);
        return -1;
    }
    return 0;
}

static void unload(void) {
    unsigned at;
    while (pool.idles > 0) {
        struct nvmeh_channel *channel = pool.idle[--pool.idles];
        nvmeh_channel_adopt(channel); /* it is of the thread that last served with it */
        nvmeh_channel_destroy(channel);
    }
    nvmeh_head_free(head);
    if (host && nvmeh_host_shutdown_forced(host, SHUTDOWN_MS) < 0)
        nbdkit_error("shutting down: %s", nvmeh_last_error());
    for (at = 0; at < asked.urls; at++)
        nvmeh_controller_free(controller[at]);
    nvmeh_host_destroy(host);
    nvmeh_options_free(asked.host);
    nvmeh_options_free(asked.controller);
    nvmeh_options_free(asked.channel);
}

/* ---- channels -------------------------------------------------------------------------------- */

/* NULL: it is no more, and another may be made. */
static void put_channel(struct nvmeh_channel *channel) {
    pthread_mutex_lock(&pool.lock);
    if (channel)
        pool.idle[pool.idles++] = channel;
    else
        pool.made--;
    pthread_cond_signal(&pool.one_is_back);
    pthread_mutex_unlock(&pool.lock);
}

/* A channel for this thread until put_channel(), or NULL with the error told. */
static struct nvmeh_channel *take_channel(void) {
    struct nvmeh_channel *channel = NULL;
    int make = 0;
    pthread_mutex_lock(&pool.lock);
    while (pool.idles == 0 && pool.made == asked.channels)
        pthread_cond_wait(&pool.one_is_back, &pool.lock);
    if (pool.idles > 0) {
        channel = pool.idle[--pool.idles];
    } else {
        pool.made++;
        make = 1;
    }
    pthread_mutex_unlock(&pool.lock);
    if (!make) {
        int result = nvmeh_channel_adopt(channel);
        if (result == 0)
            return channel;
        nbdkit_error("taking a channel: %s", nvmeh_last_error());
        nbdkit_set_error(-result);
        put_channel(channel);
        return NULL;
    }
    if (nvmeh_channel_new(host, asked.channel, &channel) < 0) {
        nbdkit_error("making a channel: %s", nvmeh_last_error());
        nbdkit_set_error(EIO);
        put_channel(NULL);
        return NULL;
    }
    return channel;
}

/* ---- requests -------------------------------------------------------------------------------- */

enum what { READ, WRITE, ZERO, TRIM };

static const char *const name_of[] = {"read", "write", "zero", "trim"};

/* One request of nbdkit: the pieces of it that a controller can take. */
struct request {
    unsigned in_flight;
    int result; /* of the first piece that failed */
    uint32_t nvme_status, flags;
};

static void ended(const struct nvmeh_completion *c, void *arg) {
    struct request *r = arg;
    r->in_flight--;
    r->flags |= c->flags;
    if (c->result < 0 && r->result == 0) {
        r->result = c->result;
        r->nvme_status = c->nvme_status;
    }
}

/* Polls, and sleeps when there is nothing to do. */
static int progress(struct nvmeh_channel *channel) {
    int done = nvmeh_channel_poll(channel, 0);
    return done == 0 ? nvmeh_channel_wait(channel, NVMEH_FOREVER) : done;
}

static int submit(struct nvmeh_channel *ch, enum what what, unsigned char *buf, uint64_t len, uint64_t offset,
                  uint32_t flags, struct request *r) {
    switch (what) {
    case READ:
        return nvmeh_submit_read(ch, head, buf, (size_t)len, offset, flags, ended, r, NULL);
    case WRITE:
        return nvmeh_submit_write(ch, head, buf, (size_t)len, offset, flags, ended, r, NULL);
    case ZERO:
        return nvmeh_submit_write_zeroes(ch, head, offset, len, flags, ended, r, NULL);
    default:
        return nvmeh_submit_discard(ch, head, offset, len, ended, r, NULL);
    }
}

/* Sends all pieces and waits for all of them: when it returns, nothing touches `buf`. */
static int run(struct nvmeh_channel **channel, enum what what, unsigned char *buf, uint64_t len, uint64_t offset,
               uint64_t piece, uint32_t flags, struct request *r) {
    struct nvmeh_channel *ch = *channel;
    int result;
    while (len > 0 && r->result == 0) {
        uint64_t now = len < piece ? len : piece;
        result = submit(ch, what, buf, now, offset, flags, r);
        if (result == -EAGAIN) {
            if ((result = progress(ch)) < 0)
                r->result = result;
            continue;
        }
        if (result < 0) {
            r->result = result;
            break;
        }
        r->in_flight++;
        len -= now;
        offset += now;
        buf = buf ? buf + now : NULL;
    }
    while (r->in_flight > 0)
        if ((result = progress(ch)) < 0) {
            nvmeh_channel_destroy(ch); /* it is of no use, but gives the memory back */
            *channel = NULL;
            return result;
        }
    return r->result;
}

static int geometry_of(struct nvmeh_geometry *g) {
    g->size = sizeof *g;
    if (nvmeh_head_geometry(head, g) == 0)
        return 0;
    nbdkit_error("the namespace: %s", nvmeh_last_error());
    nbdkit_set_error(EIO);
    return -1;
}

static int tell(const char *what, uint64_t len, uint64_t offset, int result, const struct request *r) {
    nbdkit_error("%s of %llu bytes at %llu: %s%s%s", what, (unsigned long long)len, (unsigned long long)offset,
                 nvmeh_strerror(result), r->flags & NVMEH_OUTCOME_UNKNOWN ? "; it may have been executed" : "",
                 r->nvme_status ? "; the controller answered with an error" : "");
    nbdkit_set_error(-result);
    return -1;
}

static int do_io(enum what what, void *buf, uint64_t len, uint64_t offset, uint32_t flags, int then_flush) {
    struct request r = {0, 0, 0, 0};
    struct nvmeh_geometry g;
    struct nvmeh_channel *ch;
    uint64_t piece;
    int result;
    if (geometry_of(&g) < 0)
        return -1;
    if (offset % g.block_size != 0 || len % g.block_size != 0) {
        nbdkit_error("%s of %llu bytes at %llu: not whole blocks of %u bytes (nbdkit's filter blocksize helps)",
                     name_of[what], (unsigned long long)len, (unsigned long long)offset, g.block_size);
        nbdkit_set_error(EINVAL);
        return -1;
    }
    piece = what == READ || what == WRITE ? g.max_transfer : UINT64_C(65536) * g.block_size;
    ch = take_channel();
    if (!ch)
        return -1;
    result = run(&ch, what, buf, len, offset, piece, flags, &r);
    if (result == 0 && then_flush)
        result = nvmeh_flush(ch, head);
    put_channel(ch);
    return result < 0 ? tell(name_of[what], len, offset, result, &r) : 0;
}

/* What is written is only read; `do_io` is for both directions. */
static void *plain(const void *buf) {
    union {
        const void *from;
        void *to;
    } u = {buf};
    return u.to;
}

static int pread_(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    (void)flags;
    return do_io(READ, buf, count, offset, 0, 0);
}

static uint32_t fua(uint32_t flags) { return flags & NBDKIT_FLAG_FUA ? NVMEH_FUA : 0; }

static int pwrite_(void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    return do_io(WRITE, plain(buf), count, offset, fua(flags), 0);
}

/* One small command for up to 65,536 blocks: fast, whether the client asks for that or not. Where a
 * controller has no such command it answers EOPNOTSUPP, and nbdkit writes zeroes, unless the client
 * asked for fast ones only. */
static int zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    return do_io(ZERO, NULL, count, offset, fua(flags), 0);
}

/* Dataset Management has no FUA. */
static int trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    return do_io(TRIM, NULL, count, offset, 0, (flags & NBDKIT_FLAG_FUA) != 0);
}

static int flush(void *handle, uint32_t flags) {
    struct request r = {0, 0, 0, 0};
    struct nvmeh_channel *ch = take_channel();
    int result;
    (void)handle;
    (void)flags;
    if (!ch)
        return -1;
    result = nvmeh_flush(ch, head);
    put_channel(ch);
    return result < 0 ? tell("flush", 0, 0, result, &r) : 0;
}

/* ---- what it is ------------------------------------------------------------------------------ */

static void *open_(int readonly) {
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t get_size(void *handle) {
    struct nvmeh_geometry g;
    (void)handle;
    return geometry_of(&g) < 0 ? -1 : (int64_t)g.bytes;
}

static int block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum) {
    struct nvmeh_geometry g;
    (void)handle;
    if (geometry_of(&g) < 0)
        return -1;
    *minimum = g.block_size;
    *preferred = g.block_size > 4096 ? g.block_size : 4096;
    *maximum = UINT32_MAX; /* cut into pieces here */
    return 0;
}

static int can_write(void *handle) {
    struct nvmeh_geometry g;
    (void)handle;
    return geometry_of(&g) < 0 ? -1 : !g.read_only;
}

static int yes(void *handle) {
    (void)handle;
    return 1;
}

static int can_fua(void *handle) {
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static struct nbdkit_plugin plugin = {
    .name = "nvmehost",
    .version = "0.1",
    .longname = "NVMe namespace over several paths",
    .description = "A multipath NVMe namespace, without the kernel's NVMe",
    .config_help =
        "url=URL             (required, once for each path) tcp://ADDRESS:PORT/NQN, vfio://BDF, ...\n"
        "nsid=N              Namespace (default 1).\n"
        "nqn=NQN             Subsystem, if the URLs lead to several.\n"
        "delayed-removal=S   Seconds that the disk outlives its last path, or \"forever\" (default 0).\n"
        "policy=POLICY       round-robin, numa, queue-depth, active-passive, service-time.\n"
        "fence=FENCE         auto, strict, off: writes that were in flight on a lost path.\n"
        "channels=N          Most requests at once, 1 to 256 (default 16).\n"
        "connect-timeout=S   Longest wait for the first path (default 30).\n"
        "option=NAME=VALUE   Any other option of libnvmehost.",
    .load = load,
    .unload = unload,
    .config = config,
    .config_complete = config_complete,
    .magic_config_key = "url",
    .after_fork = after_fork,
    .open = open_,
    .get_size = get_size,
    .block_size = block_size,
    .can_write = can_write,
    .can_flush = yes,
    .can_trim = yes,
    .can_zero = yes,
    .can_fast_zero = yes,
    .can_fua = can_fua,
    /* A flush makes durable what ended on any channel, since it is the namespace's. */
    .can_multi_conn = yes,
    .pread = pread_,
    .pwrite = pwrite_,
    .zero = zero,
    .trim = trim,
    .flush = flush,
    .errno_is_preserved = 0,
};

NBDKIT_REGISTER_PLUGIN(plugin)
