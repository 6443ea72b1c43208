// How functions that Rust calls end: they return 0, or 1 with a message.

#pragma once

#include <cstring>
#include <exception>

#include <c10/core/GradMode.h>

template <typename Work> int guarded(char *message, size_t size, Work work) {
    try {
        c10::AutoGradMode no_gradients(false);
        work();
        return 0;
    } catch (const std::exception &error) {
        std::strncpy(message, error.what(), size - 1);
        message[size - 1] = 0;
        return 1;
    }
}
