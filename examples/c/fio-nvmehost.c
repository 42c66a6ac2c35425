/* SPDX-License-Identifier: GPL-2.0-only
 *
 * An fio engine on libnvmehost. This one file is under fio's licence, the GNU General Public License,
 * version 2, because it is built with fio's headers and runs inside fio. The rest of the repository is
 * not (README.md).
 *
 *     fio --ioengine=external:./fio-nvmehost.so --url='tcp://HOST:4420/NQN tcp://HOST:4421/NQN' \
 *         --name=job --rw=randrw --verify=crc32c --iodepth=64 --numjobs=2 ...
 *
 * All jobs are threads of one process (the engine sees to it), which has one host, and one head for
 * each namespace; each job has a channel of its own. Completions are reaped in batches.
 */
#include <fio.h>
#include <optgroup.h>

#include <nvmehost.h>

#include <pthread.h>

#define URLS 16
#define BATCH 64
#define SHUTDOWN_MS 5000

struct engine_options {
    void *pad; /* fio takes no option at offset 0 */
    char *url;
    char *more;
    unsigned int nsid;
    unsigned int delayed_removal;
    unsigned int connect_timeout;
};

#define OPTION(n, l, t, member, text, ...)                                                            \
    {                                                                                                 \
        .name = n, .lname = l, .type = t, .off1 = offsetof(struct engine_options, member),            \
        .help = text, .category = FIO_OPT_C_ENGINE, .group = FIO_OPT_G_INVALID, __VA_ARGS__           \
    }

static struct fio_option options[] = {
    OPTION("url", "URLs", FIO_OPT_STR_STORE, url,
           "Controllers, one for each path, with spaces between them: tcp://ADDRESS:PORT/NQN ...", .def = NULL),
    OPTION("nvmeh_options", "Options", FIO_OPT_STR_STORE, more,
           "Options of libnvmehost: NAME=VALUE, with spaces between them", .def = NULL),
    OPTION("nsid", "Namespace", FIO_OPT_INT, nsid, "Namespace ID", .def = "1"),
    OPTION("delayed_removal", "Delayed removal", FIO_OPT_INT, delayed_removal,
           "Seconds that the head outlives its last path", .def = "30"),
    OPTION("connect_timeout", "Connect timeout", FIO_OPT_INT, connect_timeout,
           "Seconds until the first path must be there", .def = "30"),
    {.name = NULL},
};

/* ---- what all jobs share ---------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
    unsigned jobs; /* that use it */
    struct nvmeh_host *host;
    unsigned urls;
    struct {
        char *url;
        struct nvmeh_controller *controller;
    } path[URLS];
} shared;

/* What a job has. */
struct job {
    struct nvmeh_head *head;
    struct nvmeh_options *options;
    struct nvmeh_channel *channel; /* from init() to cleanup(), which its thread calls */
    struct io_u **ended;
    unsigned ends; /* `ended` that fio may ask for */
};

static void say(const char *what, const char *of) { log_err("nvmehost: %s: %s: %s\n", what, of, nvmeh_last_error()); }

/* Takes NAME=VALUE pairs as options of a kind; those of the other kinds are left to them. */
static int set_options(struct nvmeh_options *set, const char *text, unsigned *known) {
    char *copy = strdup(text ? text : ""), *at = copy, *pair, *value;
    int result = 0;
    *known = 0;
    while (copy && result >= 0 && (pair = strsep(&at, " ")) != NULL) {
        if (*pair == 0)
            continue;
        value = strchr(pair, '=');
        if (!value) {
            log_err("nvmehost: nvmeh_options: \"%s\" is not NAME=VALUE\n", pair);
            result = -EINVAL;
            break;
        }
        *value++ = 0;
        result = nvmeh_options_set(set, pair, value);
        if (result == -ENOENT) {
            result = 0;
        } else if (result < 0) {
            say("nvmeh_options", pair);
        } else {
            ++*known;
        }
    }
    free(copy);
    return copy ? result : -ENOMEM;
}

static unsigned count_words(const char *text) {
    unsigned words = 0;
    for (; text && *text; text++)
        words += *text != ' ' && (text[1] == ' ' || text[1] == 0);
    return words;
}

/* With the lock held. The controller at a URL, connected to if this is the first job that asks. */
static struct nvmeh_controller *path_to(const char *url, const struct nvmeh_options *o) {
    unsigned at;
    for (at = 0; at < shared.urls; at++)
        if (strcmp(shared.path[at].url, url) == 0)
            return shared.path[at].controller;
    if (at == URLS) {
        log_err("nvmehost: more than %d URLs\n", URLS);
        return NULL;
    }
    if (nvmeh_host_connect(shared.host, url, o, &shared.path[at].controller) < 0) {
        say("url", url);
        return NULL;
    }
    shared.path[at].url = strdup(url);
    shared.urls++;
    return shared.path[at].controller;
}

/* With the lock held: connects, and finds the head. One path is enough to begin. */
static int find_head(struct job *job, const struct engine_options *o, const struct nvmeh_options *c) {
    char *copy = strdup(o->url), *at = copy, *url, nqn[256] = "", error[512];
    struct nvmeh_controller *list[URLS];
    unsigned n = 0, i;
    uint64_t begun = utime_since_genesis(), limit = o->connect_timeout * UINT64_C(1000), spent = 0;
    while (copy && (url = strsep(&at, " ")) != NULL)
        if (*url != 0 && (n == URLS || !(list[n++] = path_to(url, c)))) {
            free(copy);
            return -EINVAL;
        }
    free(copy);
    /* The name of the subsystem, from whichever is live first. */
    while (nqn[0] == 0 && spent < limit) {
        for (i = 0; i < n && nqn[0] == 0; i++)
            if (nvmeh_controller_wait_ready(list[i], 50) == 0)
                nvmeh_controller_subsystem(list[i], nqn, sizeof nqn);
        spent = (utime_since_genesis() - begun) / 1000;
        if (nqn[0] == 0)
            usleep(10000);
    }
    if (nqn[0] != 0 &&
        nvmeh_host_head(shared.host, nqn, o->nsid, limit > spent ? limit - spent : 0, &job->head) == 0)
        return 0;
    if (nqn[0] != 0)
        say("the namespace", nqn);
    for (i = 0; i < n; i++)
        if (nvmeh_controller_last_error(list[i], error, sizeof error) > 0)
            log_err("nvmehost: %s\n", error);
    log_err("nvmehost: no namespace %u within %u s\n", o->nsid, o->connect_timeout);
    return -ENODEV;
}

/* With the lock held. */
static int join(struct job *job, const struct engine_options *o, unsigned depth) {
    struct nvmeh_options *host = NULL, *controller = NULL;
    unsigned known[3] = {0, 0, 0};
    int result = nvmeh_options_new(NVMEH_OPTIONS_HOST, &host);
    if (result >= 0)
        result = nvmeh_options_new(NVMEH_OPTIONS_CONTROLLER, &controller);
    if (result >= 0)
        result = nvmeh_options_new(NVMEH_OPTIONS_CHANNEL, &job->options);
    if (result >= 0)
        result = nvmeh_options_set_u64(job->options, "depth", depth);
    if (result < 0)
        say("options", "depth");
    if (result >= 0 && (result = set_options(host, o->more, &known[0])) >= 0 &&
        (result = set_options(controller, o->more, &known[1])) >= 0)
        result = set_options(job->options, o->more, &known[2]);
    if (result >= 0 && known[0] + known[1] + known[2] < count_words(o->more)) {
        log_err("nvmehost: nvmeh_options: one of \"%s\" does not exist; of a channel: %s\n", o->more,
                nvmeh_last_error());
        result = -EINVAL;
    }
    if (result >= 0 && !shared.host && (result = nvmeh_host_new(host, &shared.host)) < 0)
        say("a host", "making");
    if (result >= 0 && (result = find_head(job, o, controller)) >= 0)
        result = nvmeh_head_set_delayed_removal(job->head, NVMEH_CAUSE_DEFAULT, o->delayed_removal * UINT64_C(1000));
    nvmeh_options_free(host);
    nvmeh_options_free(controller);
    return result;
}

/* With the lock held: the last job takes the host down. */
static void leave(void) {
    unsigned at;
    if (--shared.jobs > 0)
        return;
    if (shared.host && nvmeh_host_shutdown_forced(shared.host, SHUTDOWN_MS) < 0)
        say("the host", "shutting down");
    for (at = 0; at < shared.urls; at++) {
        nvmeh_controller_free(shared.path[at].controller);
        free(shared.path[at].url);
    }
    nvmeh_host_destroy(shared.host);
    memset(&shared, 0, sizeof shared);
}

/* ---- a job -------------------------------------------------------------------------------------- */

static void cleanup(struct thread_data *td) {
    struct job *job = td->io_ops_data;
    if (!job)
        return;
    td->io_ops_data = NULL;
    nvmeh_channel_destroy(job->channel);
    nvmeh_head_free(job->head);
    nvmeh_options_free(job->options);
    free(job->ended);
    free(job);
    pthread_mutex_lock(&lock);
    leave();
    pthread_mutex_unlock(&lock);
}

static int check(const struct thread_data *td, const struct nvmeh_geometry *g) {
    int d;
    for (d = 0; d < DDIR_RWDIR_CNT; d++) {
        if (td->o.max_bs[d] == 0)
            continue;
        if (d != DDIR_TRIM && td->o.max_bs[d] > g->max_transfer) {
            log_err("nvmehost: bs=%llu is more than one request can move, %llu bytes\n",
                    (unsigned long long)td->o.max_bs[d], (unsigned long long)g->max_transfer);
            return -EINVAL;
        }
        if (td->o.min_bs[d] % g->block_size != 0) {
            log_err("nvmehost: bs=%llu is no multiple of the block size, %u bytes\n",
                    (unsigned long long)td->o.min_bs[d], g->block_size);
            return -EINVAL;
        }
    }
    return 0;
}

/* In fio's first thread, before the job's own is begun: the size is needed by then. */
static int setup(struct thread_data *td) {
    const struct engine_options *o = td->eo;
    struct nvmeh_geometry g;
    struct job *job;
    int result;
    if (!o->url || count_words(o->url) == 0) {
        log_err("nvmehost: url= is missing: the controllers' URLs, with spaces between them\n");
        return 1;
    }
    td->o.use_thread = 1; /* one host for all jobs, and no object of the library outlives a fork */
    if (td->io_ops_data)
        return 0;
    job = calloc(1, sizeof *job);
    if (!job)
        return 1;
    td->io_ops_data = job;
    job->ended = calloc(td->o.iodepth, sizeof(struct io_u *));
    pthread_mutex_lock(&lock);
    shared.jobs++;
    result = job->ended ? join(job, o, td->o.iodepth < 16 ? 16 : td->o.iodepth) : -ENOMEM;
    pthread_mutex_unlock(&lock);
    g.size = sizeof g;
    if (result >= 0 && (result = nvmeh_head_geometry(job->head, &g)) < 0)
        say("geometry", o->url);
    if (result >= 0)
        result = check(td, &g);
    if (result < 0) {
        cleanup(td);
        td_verror(td, -result, "nvmehost");
        return 1;
    }
    if (!td->files_index) {
        add_file(td, td->o.filename ? td->o.filename : "nvmehost", 0, 0);
        td->o.nr_files = td->o.nr_files ? td->o.nr_files : 1;
        td->o.open_files++;
    }
    td->files[0]->real_file_size = g.bytes;
    return 0;
}

/* In the job's thread. */
static int init(struct thread_data *td) {
    struct job *job = td->io_ops_data;
    int result = nvmeh_channel_new(shared.host, job->options, &job->channel);
    if (result < 0) {
        say("a channel", "making");
        td_verror(td, -result, "nvmehost channel");
        return 1;
    }
    return 0;
}

static enum fio_q_status queue(struct thread_data *td, struct io_u *u) {
    struct job *job = td->io_ops_data;
    int result;
    fio_ro_check(td, u);
    switch (u->ddir) {
    case DDIR_READ:
        result = nvmeh_submit_read(job->channel, job->head, u->xfer_buf, u->xfer_buflen, u->offset, 0, NULL, u, NULL);
        break;
    case DDIR_WRITE:
        result = nvmeh_submit_write(job->channel, job->head, u->xfer_buf, u->xfer_buflen, u->offset, 0, NULL, u, NULL);
        break;
    case DDIR_TRIM:
        result = nvmeh_submit_discard(job->channel, job->head, u->offset, u->xfer_buflen, NULL, u, NULL);
        break;
    case DDIR_SYNC:
    case DDIR_DATASYNC:
        result = nvmeh_submit_flush(job->channel, job->head, NULL, u, NULL);
        break;
    default:
        result = -EOPNOTSUPP;
        break;
    }
    if (result == 0)
        return FIO_Q_QUEUED;
    if (result == -EAGAIN)
        return FIO_Q_BUSY;
    log_err("nvmehost: offset %llu: %s\n", u->offset, nvmeh_last_error());
    u->error = -result;
    td_verror(td, u->error, "nvmehost submit");
    return FIO_Q_COMPLETED;
}

static int commit(struct thread_data *td) {
    struct job *job = td->io_ops_data;
    int result = nvmeh_channel_kick(job->channel);
    io_u_mark_submit(td, td->io_u_queued);
    if (result < 0)
        td_verror(td, -result, "nvmehost kick");
    return result < 0 ? 1 : 0;
}

static void note(struct job *job, const struct nvmeh_completion *c) {
    struct io_u *u = c->arg;
    u->error = c->result < 0 ? (unsigned int)-c->result : 0;
    u->resid = c->result < 0 ? u->xfer_buflen : 0;
    if (c->result < 0)
        log_err("nvmehost: offset %llu: %s (NVMe status %#x)\n", u->offset, nvmeh_strerror(c->result),
                c->nvme_status);
    job->ended[job->ends++] = u;
}

static int getevents(struct thread_data *td, unsigned int min, unsigned int max, const struct timespec *t) {
    struct job *job = td->io_ops_data;
    uint64_t ms = t ? (uint64_t)t->tv_sec * 1000 + (uint64_t)t->tv_nsec / 1000000 : NVMEH_FOREVER;
    int result, at, waited = 0;
    job->ends = 0;
    for (;;) {
        struct nvmeh_completion c[BATCH];
        unsigned room = max - job->ends;
        c[0].size = sizeof c[0];
        result = nvmeh_channel_reap(job->channel, c, room < BATCH ? room : BATCH);
        for (at = 0; at < result; at++)
            note(job, &c[at]);
        if (result < 0 || job->ends >= max)
            break;
        if (result > 0)
            continue;
        if (job->ends >= min || (t && waited))
            break;
        result = nvmeh_channel_wait(job->channel, ms);
        if (result < 0)
            break;
        waited = 1;
    }
    return result < 0 ? result : (int)job->ends;
}

static struct io_u *event(struct thread_data *td, int at) {
    const struct job *job = td->io_ops_data;
    return job->ended[at];
}

static int nothing(struct thread_data *td, struct fio_file *f) {
    (void)td;
    (void)f;
    return 0;
}

/* fio finds it by this name. */
struct ioengine_ops ioengine = {
    .name = "nvmehost",
    .version = FIO_IOOPS_VERSION,
    .flags = FIO_NOEXTEND | FIO_NODISKUTIL | FIO_RAWIO,
    .setup = setup,
    .init = init,
    .queue = queue,
    .commit = commit,
    .getevents = getevents,
    .event = event,
    .cleanup = cleanup,
    .open_file = nothing,
    .close_file = nothing,
    .invalidate = nothing,
    .options = options,
    .option_struct_size = sizeof(struct engine_options),
};
