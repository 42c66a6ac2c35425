#include <nvmehost.h>

/* What a state consists of. */
struct scene {
    struct nvmeh_host *host;
    struct nvmeh_controller *controller;
    struct nvmeh_head *head;
    struct nvmeh_channel *channel;
    struct nvmeh_events *events;
    struct nvmeh_pin *pin;
    int (*poll)(struct nvmeh_channel *, uint32_t);
};

void prepare(struct scene *out, const char *url, const char *state, nvmeh_callback callback, void *arg);
