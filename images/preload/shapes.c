// Refuses shapes that would cost other requests their answers, before Triton's own check of them, whichever
// protocol they came by: docs/hostile-input.md. Triton's front ends take it for the server's own function.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>

// Of Triton's tritonserver.h, where enumerations begin at 0.
enum { TRITONSERVER_ERROR_INVALID_ARG = 3 };
// Weak: it is preloaded into whatever starts beside Triton, too, which has no such function.
__attribute__((weak)) void *TRITONSERVER_ErrorNew(int code, const char *message);

void *TRITONSERVER_InferenceRequestAddInput(
    void *request, const char *name, int datatype, const int64_t *shape, uint64_t dim_count)
{
    // Triton keeps the batch, the first size, in 32 bits: 4294967296 is 0 to it as well.
    for (uint64_t i = 0; i < dim_count; i++)
        if (shape[i] < 1 || shape[i] > INT32_MAX) {
            char message[256];
            snprintf(message, sizeof message, "input '%.100s': a shape has the size %" PRId64
                     ", sizes are 1 to %d", name, shape[i], INT32_MAX);
            return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, message);
        }
    void *(*real)(void *, const char *, int, const int64_t *, uint64_t) =
        dlsym(RTLD_NEXT, "TRITONSERVER_InferenceRequestAddInput");
    return real(request, name, datatype, shape, dim_count);
}
