/* An OpenAI-compatible server that streams made-up tokens on an exact schedule and records when it really sent each.
 *
 *   server FILE [TTFT_US GAP_US TOKENS]
 *
 * Prints its port, answers until SIGTERM, then writes FILE: for every answer int64 values seed, count, received, and
 * `count` times of sending, all in nanoseconds of CLOCK_MONOTONIC, read just before each send(). The request's fields
 * "seed", "max_tokens" (or "max_completion_tokens"), "ttft_us" and "gap_us" win over the command line; the time to the
 * first token and every gap are exact, without jitter, unless "jitter" is 1: then gaps are exponential.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

typedef int64_t ns_t;

typedef struct Stream {
    int fd, chat, streaming, jitter, tokens, sent, heap_at, active;
    size_t held, room;
    char *input;
    ns_t due, gap;
    int64_t *record; /* seed, count, received, times */
    struct Stream *next;
} Stream;

static Stream **heap;
static int heap_size, heap_room;
static FILE *truth;
static volatile sig_atomic_t ended;
static ns_t default_ttft = 20000000, default_gap = 1000000;
static int default_tokens = 64;
static uint64_t random_state = 88172645463325252ull;

static ns_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static double uniform(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return ((random_state >> 11) + 1) / 9007199254740993.0;
}

static void put(int at, Stream *s) { heap[at] = s; s->heap_at = at; }

static void up(int at) {
    Stream *s = heap[at];
    while (at && heap[(at - 1) / 2]->due > s->due) { put(at, heap[(at - 1) / 2]); at = (at - 1) / 2; }
    put(at, s);
}

static void down(int at) {
    Stream *s = heap[at];
    for (;;) {
        int child = 2 * at + 1;
        if (child >= heap_size) break;
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= s->due) break;
        put(at, heap[child]);
        at = child;
    }
    put(at, s);
}

static void push(Stream *s) {
    if (heap_size == heap_room) heap = realloc(heap, (heap_room = heap_room ? 2 * heap_room : 64) * sizeof *heap);
    heap[heap_size] = s;
    up(heap_size++);
}

static void take_out(Stream *s) {
    int at = s->heap_at;
    Stream *last = heap[--heap_size];
    if (last != s) { put(at, last); up(at); down(last->heap_at); }
}

static int send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return -1;
            struct timespec pause = {0, 20000};
            nanosleep(&pause, NULL);
            continue;
        }
        data += sent;
        size -= sent;
    }
    return 0;
}

static int chunk(char *out, const char *text) { return sprintf(out, "%zx\r\n%s\r\n", strlen(text), text); }

static const char *envelope =
    "data: {\"id\":\"chatcmpl-7f3a2b9c51d84e60\",\"object\":\"%s\",\"created\":1790000000,\"model\":\"ground-truth\","
    "\"choices\":[{\"index\":0,%s,\"logprobs\":null,\"finish_reason\":%s}]}\n\n";

static int send_piece(Stream *s, const char *piece, const char *reason) {
    char text[1024], out[1200];
    snprintf(text, sizeof text, envelope, s->chat ? "chat.completion.chunk" : "text_completion", piece, reason);
    return send_all(s->fd, out, chunk(out, text));
}

static int64_t number_in(const char *body, const char *name, int64_t otherwise) {
    const char *found = strstr(body, name);
    if (!found) return otherwise;
    found += strlen(name);
    while (*found == ' ' || *found == ':') found++;
    return strtoll(found, NULL, 10);
}

static void finish(Stream *s) {
    s->record[1] = s->sent;
    fwrite(s->record, sizeof(int64_t), 3 + s->sent, truth);
    free(s->record);
    s->record = NULL;
    s->active = 0;
}

static void drop(Stream *s) {
    if (s->active) { take_out(s); finish(s); }
    close(s->fd);
    free(s->input);
    free(s);
}

static int whole(Stream *s) { /* the answer in one document */
    char head[256], *body = malloc(s->tokens * 4 + 512);
    size_t at = sprintf(body, "{\"id\":\"x\",\"object\":\"%s\",\"choices\":[{\"index\":0,%s\"", s->chat ? "chat.completion" : "text_completion",
                        s->chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    for (int i = 0; i < s->tokens; i++) at += sprintf(body + at, " tok");
    at += sprintf(body + at, "\"%s,\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":%d,\"total_tokens\":%d}}",
                  s->chat ? "}" : "", s->tokens, s->tokens + 8);
    int size = sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", at);
    s->record[3 + s->sent++] = now();
    int failed = send_all(s->fd, head, size) || send_all(s->fd, body, at);
    free(body);
    return failed;
}

static int advance(Stream *s) { /* the token that is due; 1 when the stream is over, -1 when it broke */
    if (!s->streaming) return whole(s) ? -1 : 1;
    if (!s->sent) {
        char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        if (send_all(s->fd, head, sizeof head - 1)) return -1;
        if (s->chat && send_piece(s, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}", "null")) return -1;
    }
    s->record[3 + s->sent++] = now();
    if (send_piece(s, s->chat ? "\"delta\":{\"content\":\" tok\"}" : "\"text\":\" tok\"", "null")) return -1;
    if (s->sent < s->tokens) {
        ns_t gap = s->jitter ? (ns_t)(-log(uniform()) * s->gap) : s->gap;
        s->due += gap;
        return 0;
    }
    char text[512], out[2048];
    if (send_piece(s, s->chat ? "\"delta\":{}" : "\"text\":\"\"", "\"length\"")) return -1;
    snprintf(text, sizeof text, "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{\"prompt_tokens\":8,"
             "\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n", s->tokens, s->tokens + 8);
    int size = chunk(out, text);
    size += chunk(out + size, "data: [DONE]\n\n");
    size += sprintf(out + size, "0\r\n\r\n");
    return send_all(s->fd, out, size) ? -1 : 1;
}

static const char *models =
    "{\"object\":\"list\",\"data\":[{\"id\":\"ground-truth\",\"object\":\"model\",\"created\":1790000000,\"owned_by\":\"lab\"}]}";

static int begin(Stream *s, char *head, char *body, ns_t received) { /* a whole request is there */
    if (strncmp(head, "POST", 4)) {
        char out[512];
        int size = sprintf(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(models), models);
        return send_all(s->fd, out, size);
    }
    s->chat = strstr(head, "/chat/completions") && strstr(head, "/chat/completions") < strstr(head, "\r\n");
    s->streaming = strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true");
    s->jitter = number_in(body, "\"jitter\"", 0);
    s->tokens = number_in(body, "\"max_tokens\"", number_in(body, "\"max_completion_tokens\"", default_tokens));
    s->gap = number_in(body, "\"gap_us\"", default_gap / 1000) * 1000;
    s->due = received + number_in(body, "\"ttft_us\"", default_ttft / 1000) * 1000;
    s->sent = 0;
    if (s->tokens < 1) s->tokens = 1;
    s->record = malloc((3 + s->tokens) * sizeof(int64_t));
    s->record[0] = number_in(body, "\"seed\"", -1);
    s->record[2] = received;
    s->active = 1;
    push(s);
    return 0;
}

static int receive(Stream *s, ns_t woken) { /* -1 when the connection is over */
    for (;;) {
        if (s->room - s->held < 4096) s->input = realloc(s->input, s->room = 2 * s->held + 8192);
        ssize_t got = recv(s->fd, s->input + s->held, s->room - s->held - 1, 0);
        if (got == 0) return -1;
        if (got < 0) {
            if (errno == EAGAIN) return 0;
            if (errno == EINTR) continue;
            return -1;
        }
        s->held += got;
        s->input[s->held] = 0;
        char *end = strstr(s->input, "\r\n\r\n");
        if (!end || s->active) continue;
        char *length = strcasestr(s->input, "content-length:");
        size_t body = length && length < end ? strtoul(length + 15, NULL, 10) : 0;
        size_t size = end + 4 - s->input + body;
        if (s->held < size) continue;
        *end = 0;
        if (begin(s, s->input, end + 4, woken)) return -1;
        memmove(s->input, s->input + size, s->held -= size);
    }
}

static void stop(int signal) { (void)signal; ended = 1; }

int main(int count, char **args) {
    if (count > 2) default_ttft = atoll(args[2]) * 1000;
    if (count > 3) default_gap = atoll(args[3]) * 1000;
    if (count > 4) default_tokens = atoi(args[4]);
    truth = fopen(args[1], "wb");
    if (!truth) { perror(args[1]); return 1; }
    setvbuf(truth, NULL, _IOFBF, 1 << 20);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) { perror("listen"); return 1; }
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int poller = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener}, ready[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &timer;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    while (!ended) {
        int wait = -1;
        if (heap_size) {
            ns_t left = heap[0]->due - now();
            if (left < 30000) wait = 0;
            else {
                ns_t at = heap[0]->due - 20000;
                struct itimerspec when = {.it_value = {at / 1000000000ll, at % 1000000000ll}};
                timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
            }
        }
        int found = epoll_wait(poller, ready, 256, wait);
        ns_t woken = now();
        for (int i = 0; i < found; i++) {
            if (ready[i].data.ptr == &timer) {
                uint64_t times;
                if (read(timer, &times, sizeof times) < 0) continue;
            } else if (ready[i].data.ptr == &listener) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    Stream *s = calloc(1, sizeof *s);
                    s->fd = fd;
                    event.data.ptr = s;
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
                }
            } else if (receive(ready[i].data.ptr, woken)) drop(ready[i].data.ptr);
        }
        for (int sent = 0; heap_size && sent < 64 && heap[0]->due <= now(); sent++) {
            Stream *s = heap[0];
            int state = advance(s);
            if (state) { take_out(s); finish(s); }
            else down(0);
            if (state < 0) shutdown(s->fd, SHUT_RDWR);
        }
    }
    fclose(truth);
    return 0;
}
