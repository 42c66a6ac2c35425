// A C++ program on the header as it is: writes a pattern and reads it back, with a callback and without.
// io URL
#include <nvmehost.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

int must(int result, const char *what) {
    if (result < 0)
        throw std::runtime_error(std::string(what) + ": " + nvmeh_last_error());
    return result;
}

// Handles that free themselves.
struct Free {
    void operator()(nvmeh_host *h) const { nvmeh_host_destroy(h); }
    void operator()(nvmeh_controller *c) const { nvmeh_controller_free(c); }
    void operator()(nvmeh_head *h) const { nvmeh_head_free(h); }
    void operator()(nvmeh_channel *c) const { nvmeh_channel_destroy(c); }
};
template <typename T> using Handle = std::unique_ptr<T, Free>;

template <typename T, typename F> Handle<T> made(const char *what, F make) {
    T *handle = nullptr;
    must(make(&handle), what);
    return Handle<T>(handle);
}

void ended(const nvmeh_completion *c, void *arg) { *static_cast<int *>(arg) = c->result; }

void run(const char *url) {
    auto host = made<nvmeh_host>("a host", [](auto out) { return nvmeh_host_new(nullptr, out); });
    auto controller = made<nvmeh_controller>(
        "connecting", [&](auto out) { return nvmeh_host_connect(host.get(), url, nullptr, out); });
    must(nvmeh_controller_wait_ready(controller.get(), 20000), url);
    auto head = made<nvmeh_head>(
        "the head", [&](auto out) { return nvmeh_host_head(host.get(), nullptr, 1, 20000, out); });
    auto channel = made<nvmeh_channel>(
        "a channel", [&](auto out) { return nvmeh_channel_new(host.get(), nullptr, out); });

    std::vector<unsigned char> wrote(65536), read(wrote.size());
    for (std::size_t at = 0; at < wrote.size(); at++)
        wrote[at] = static_cast<unsigned char>(at * 31);
    must(nvmeh_write(channel.get(), head.get(), wrote.data(), wrote.size(), 0, 0), "writing");
    int result = 1;
    must(nvmeh_submit_read(channel.get(), head.get(), read.data(), read.size(), 0, 0, ended, &result,
                           nullptr),
         "reading");
    while (result == 1) {
        must(nvmeh_channel_wait(channel.get(), 1000), "waiting");
        must(nvmeh_channel_poll(channel.get(), 0), "polling");
    }
    must(result, "the read");
    if (wrote != read)
        throw std::runtime_error("what was read is not what was written");
    must(nvmeh_host_shutdown(host.get()), "shutting down");
}

} // namespace

int main(int argc, char **argv) {
    try {
        run(argc > 1 ? argv[1] : "");
    } catch (const std::exception &e) {
        std::cerr << e.what() << '\n';
        return EXIT_FAILURE;
    }
    std::cout << "good\n";
    return EXIT_SUCCESS;
}
