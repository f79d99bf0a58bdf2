/* Makes a process lose its GPU, as a defect of a kernel does: once the file that BATCHFLEET_GPU_LOSE_WHEN names
 * exists, a kernel writes to an address that does not exist. For LD_PRELOAD; needs the driver's library, and no
 * CUDA toolkit. Without BATCHFLEET_GPU_LOSE_WHEN it does nothing. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const kernel =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry lose() {\n  .reg .b64 %rd1;\n  .reg .b32 %r1;\n"
    "  mov.u64 %rd1, 16;\n  mov.u32 %r1, 1;\n  st.global.u32 [%rd1], %r1;\n  ret;\n}\n";

typedef int (*call)();

static void *lose(void *mark)
{
    while (access(mark, F_OK) != 0)
        usleep(20000);
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    const char *const names[] = {"cuInit", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuModuleLoadData",
                                 "cuModuleGetFunction", "cuLaunchKernel", "cuCtxSynchronize"};
    call calls[7];
    for (int at = 0; at < 7; at++) {
        calls[at] = driver ? (call)dlsym(driver, names[at]) : NULL;
        if (!calls[at]) {
            fprintf(stderr, "saboteur: no %s\n", names[at]);
            return NULL;
        }
    }
    void *context = NULL, *module = NULL, *function = NULL;
    int status = calls[0](0U);
    status = status ? status : calls[1](&context, 0);
    status = status ? status : calls[2](context);
    status = status ? status : calls[3](&module, kernel);
    status = status ? status : calls[4](&function, module, "lose");
    status = status ? status : calls[5](function, 1U, 1U, 1U, 1U, 1U, 1U, 0U, NULL, NULL, NULL);
    status = status ? status : calls[6]();
    fprintf(stderr, "saboteur: the kernel ended with CUDA code %d\n", status);
    return NULL;
}

__attribute__((constructor)) static void start(void)
{
    const char *mark = getenv("BATCHFLEET_GPU_LOSE_WHEN");
    pthread_t thread;
    if (mark && pthread_create(&thread, NULL, lose, (void *)mark) == 0)
        pthread_detach(thread);
}
