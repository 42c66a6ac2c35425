/* A channel that is closed has let go of memory that a device reaches without a copy. letgo URL, of a device
 * on a bus that answers no I/O command and goes on writing FFh to where reads are to go. */
#define _POSIX_C_SOURCE 200809L
#include "must.h"

#include <errno.h>

enum { LEN = 4096, COUNT = 3 };

static struct nvmeh_host *host;
static struct nvmeh_controller *controller;
static int ended;

static void cancelled(const struct nvmeh_completion *completion, void *arg) {
    IS(completion->result, -ECANCELED);
    IS(arg == &ended, 1);
    ended++;
}

/* The device has looked at everything that it has since this was called. */
static void device_goes_on(void) {
    static unsigned char page[4096];
    struct nvmeh_admin identify;
    memset(&identify, 0, sizeof identify);
    identify.size = sizeof identify;
    identify.opcode = 0x06;
    identify.cdw10[0] = 1;
    identify.direction = NVMEH_DATA_IN;
    identify.data = page;
    identify.data_len = sizeof page;
    IS(nvmeh_controller_admin(controller, &identify, 20000), 0);
}

int main(int argc, char **argv) {
    struct nvmeh_options *o;
    struct nvmeh_head *head;
    struct nvmeh_channel *channel;
    struct nvmeh_memory *memory;
    volatile unsigned char *data;
    int at;
    if (argc < 2)
        return 2;
    /* Driven by the program: nothing is done behind its back. */
    MUST(nvmeh_options_new(NVMEH_OPTIONS_HOST, &o));
    MUST(nvmeh_options_set_bool(o, "control_thread", 0));
    MUST(nvmeh_host_new(o, &host));
    nvmeh_options_free(o);
    MUST(nvmeh_host_connect(host, argv[1], NULL, &controller));
    MUST(nvmeh_controller_wait_ready(controller, 20000));
    MUST(nvmeh_host_head(host, NULL, 1, 20000, &head));
    MUST(nvmeh_channel_new(host, NULL, &channel));
    MUST(nvmeh_memory_new(host, LEN * COUNT, &memory));
    data = nvmeh_memory_data(memory);
    memset((void *)data, 0, LEN * COUNT);
    for (at = 0; at < COUNT; at++)
        MUST(nvmeh_submit_read(channel, head, (void *)(data + at * LEN), LEN, 0, 0, cancelled,
                               &ended, NULL));
    while (data[0] != 0xff || data[LEN * COUNT - 1] != 0xff) {
        IS(nvmeh_host_drive(host, 1), 1);
        IS(nvmeh_channel_poll(channel, 0), 0);
    }
    nvmeh_channel_destroy(channel);
    IS(ended, COUNT);
    memset((void *)data, 0x11, LEN * COUNT);
    device_goes_on();
    for (at = 0; at < LEN * COUNT; at++)
        IS(data[at], 0x11);
    nvmeh_memory_free(memory);
    MUST(nvmeh_host_shutdown(host));
    nvmeh_head_free(head);
    nvmeh_controller_free(controller);
    nvmeh_host_destroy(host);
    printf("good\n");
    return 0;
}
