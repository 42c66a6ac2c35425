/* The column `dlclose` of the matrix: loader PLUGIN URL STATE. It unloads the library with everything
 * open; the library's own thread must not lose the ground under its feet. */
#define _GNU_SOURCE
#include "matrix.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char **arguments;
static void *plugin;
static struct scene scene;
static int closed;

static void closing(const struct nvmeh_completion *c, void *arg) {
    (void)c;
    (void)arg;
    closed = dlclose(plugin) == 0;
}

static void *use(void *unused) {
    void (*make)(struct scene *, const char *, const char *, nvmeh_callback, void *);
    void *address;
    int in_callback = strcmp(arguments[3], "callback") == 0;
    plugin = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!plugin || !(address = dlsym(plugin, "prepare"))) {
        fprintf(stderr, "loader: %s\n", dlerror());
        exit(1);
    }
    memcpy(&make, &address, sizeof address);
    make(&scene, arguments[2], arguments[3], in_callback ? closing : NULL, NULL);
    while (in_callback && !closed)
        scene.poll(scene.channel, 0);
    return unused;
}

int main(int argc, char **argv) {
    struct timespec t = {1, 500000000};
    pthread_t thread;
    if (argc != 4)
        return 2;
    arguments = argv;
    if (pthread_create(&thread, NULL, use, NULL) || pthread_join(thread, NULL))
        return 1;
    if (!closed && dlclose(plugin) != 0)
        return 1;
    nanosleep(&t, NULL); /* keep-alives and timers run meanwhile */
    return 0;
}
