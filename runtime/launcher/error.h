/* The text of this thread's last error. */

static _Thread_local char error_text[512];

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static moec_status fail(moec_status status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(error_text, sizeof error_text, format, list);
    va_end(list);
    return status;
}

static size_t last_error(char *text, size_t capacity) {
    size_t length = strlen(error_text);
    if (text && capacity > 0) {
        size_t shown = length < capacity ? length : capacity - 1;
        memcpy(text, error_text, shown);
        text[shown] = 0;
    }
    return length;
}

static const char *status_string(moec_status status) {
    switch (status) {
    case MOEC_OK: return "ok";
    case MOEC_E_ABI: return "a struct of another version";
    case MOEC_E_ARG: return "a wrong argument";
    case MOEC_E_SHAPE: return "a tensor of another shape";
    case MOEC_E_DTYPE: return "a tensor of another element type";
    case MOEC_E_LAYOUT: return "a tensor with gaps or misaligned";
    case MOEC_E_WORKSPACE: return "the workspace is too short or misaligned";
    case MOEC_E_NO_DRIVER: return "no CUDA driver, or one that is too old";
    case MOEC_E_NO_IMAGE: return "no code for this device";
    case MOEC_E_DEVICE: return "a tensor on another device";
    case MOEC_E_NOMEM: return "out of host memory or threads";
    case MOEC_E_CAPTURE: return "setup while a stream is being captured";
    default: return status >= 0x10000 ? "an error of the CUDA driver" : "an unknown status";
    }
}
