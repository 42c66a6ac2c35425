/* What the C tests say when something is not as it must be, before they end. */
#ifndef MUST_H
#define MUST_H

#include <nvmehost.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A call that must not fail. */
#define MUST(what)                                                                                 \
    do {                                                                                           \
        int r_ = (what);                                                                           \
        if (r_ < 0) {                                                                              \
            fprintf(stderr, "%s:%d: %s: %d, %s\n", __FILE__, __LINE__, #what, r_,                  \
                    nvmeh_last_error());                                                           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* A number, or a call's answer, that must be `wanted`. */
#define IS(what, wanted)                                                                           \
    do {                                                                                           \
        long long r_ = (long long)(what);                                                          \
        if (r_ != (long long)(wanted)) {                                                           \
            fprintf(stderr, "%s:%d: %s is %lld, not %s: %s\n", __FILE__, __LINE__, #what, r_,      \
                    #wanted, nvmeh_last_error());                                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* The last error must say `text`. */
#define SAYS(text) IS(strstr(nvmeh_last_error(), text) != NULL, 1)

#endif
