// SPDX-License-Identifier: Apache-2.0
/*
 * A name server with headroom, and a client that connects the moment an answer is there.
 *
 *   dns-load responder PORT TTL_SECONDS
 *     Answers questions for A from nothing but the name, in batches. For each line of standard input it prints what it has seen as JSON.
 *   dns-load client SERVER RATE COUNT FIRST enforced|open|answers PROBE_EVERY OLD_SECONDS
 *     Asks for COUNT names that nobody asked for before, sFIRST.sel.test and so on, RATE a second, each from a port of its own, and opens
 *     a TCP connection to port 80 of the answer at once. A connection that is not made within CONNECT_MS is a failure: the first SYN was
 *     lost. Beside every PROBE_EVERY-th name one of four things is tried in turns:
 *       other     oN.other.test, which is answered and not selected: its address must not be reached
 *       denied    dN.denied.test: REFUSED
 *       untaught  an address that no name has: must not be reached
 *       old       the address of a name that was asked for OLD_SECONDS ago, and not since: must not be reached
 *                 (OLD_SECONDS of 0: not tried; PROBE_EVERY of 0: none of them)
 *     With `open` nothing is denied, and each of these must come to the opposite; with `answers` no connection is made either.
 *     Prints one JSON line.
 *
 * The number in a name tells its address: sN is 10.96.0.0 + N modulo 2^19, any other letter 10.104.0.0 + N, and 10.112.0.0/13 is nobody's.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BASE_ADDRESS 0x0a600000u
#define RANGE 0x80000u
#define TYPE_A 1
#define CLASS_IN 1
#define RCODE_REFUSED 5
#define HEADER_BYTES 12
#define ANSWER_BYTES 16
#define MESSAGE_BYTES_MAX 512
#define SECOND_NS 1000000000ULL
#define MS_NS 1000000ULL

static void die(const char *what)
{
	fprintf(stderr, "dns-load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND_NS + time.tv_nsec;
}

/** @returns the address that a name with this first label has, in host order */
static uint32_t address_of(char letter, uint32_t number)
{
	return BASE_ADDRESS + (letter == 's' ? 0 : RANGE) + number % RANGE;
}

/* ---- responder */

#define BATCH 64
#define BUFFER_BYTES (8 << 20)

static struct {
	uint64_t questions, denied, odd;
} seen;

static void put16(unsigned char *at, unsigned value)
{
	at[0] = value >> 8;
	at[1] = value;
}

static unsigned get16(const unsigned char *at)
{
	return at[0] << 8 | at[1];
}

/** Makes the answer where the query stands. @returns its length, 0 for what is no question */
static size_t answer(unsigned char *message, size_t length, uint32_t ttl_seconds)
{
	size_t at = HEADER_BYTES, second;
	uint32_t number = 0, address;

	if (length < HEADER_BYTES + 5 || (message[2] & 0xf8) || get16(message + 4) != 1)
		return 0;
	for (size_t index = 2; index <= message[at] && isdigit(message[at + index]); index++)
		number = number * 10 + message[at + index] - '0';
	second = at + 1 + message[at];
	while (at < length && message[at])
		at += 1 + message[at];
	if (at + 5 > length || at + 5 + ANSWER_BYTES > MESSAGE_BYTES_MAX)
		return 0;
	seen.questions++;
	if (message[second] == 6 && !strncasecmp((char *)message + second + 1, "denied", 6))
		seen.denied++;
	/* A reply with the recursion desired that was asked for, recursion available, NOERROR. */
	message[2] = 0x80 | (message[2] & 1);
	message[3] = 0x80;
	put16(message + 8, 0);
	put16(message + 10, 0);
	if (get16(message + at + 1) != TYPE_A || get16(message + at + 3) != CLASS_IN) {
		put16(message + 6, 0);
		return at + 5;
	}
	put16(message + 6, 1);
	address = htonl(address_of(tolower(message[HEADER_BYTES + 1]), number));
	ttl_seconds = htonl(ttl_seconds);
	at += 5;
	put16(message + at, 0xc000 | HEADER_BYTES);
	put16(message + at + 2, TYPE_A);
	put16(message + at + 4, CLASS_IN);
	memcpy(message + at + 6, &ttl_seconds, 4);
	put16(message + at + 10, 4);
	memcpy(message + at + 12, &address, 4);
	return at + ANSWER_BYTES;
}

static int respond(int port, uint32_t ttl_seconds)
{
	static unsigned char buffers[BATCH][MESSAGE_BYTES_MAX];
	static struct sockaddr_in peers[BATCH];
	static struct iovec parts[BATCH];
	static struct mmsghdr messages[BATCH], replies[BATCH];
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), bytes = BUFFER_BYTES;
	struct pollfd polled[] = { { .fd = fd, .events = POLLIN }, { .fd = 0, .events = POLLIN } };

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("bind");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		int count, reply_count = 0;

		poll(polled, 2, -1);
		if (polled[1].revents) {
			char line[64];

			if (read(0, line, sizeof(line)) <= 0)
				return 0;
			printf("{\"questions\":%lu,\"denied\":%lu,\"odd\":%lu}\n", seen.questions, seen.denied, seen.odd);
			fflush(stdout);
		}
		if (!polled[0].revents)
			continue;
		for (int index = 0; index < BATCH; index++) {
			parts[index] = (struct iovec){ buffers[index], MESSAGE_BYTES_MAX };
			messages[index].msg_hdr = (struct msghdr){
				.msg_name = &peers[index], .msg_namelen = sizeof(peers[index]), .msg_iov = &parts[index], .msg_iovlen = 1
			};
		}
		count = recvmmsg(fd, messages, BATCH, 0, 0);
		for (int index = 0; index < count; index++) {
			parts[index].iov_len = answer(buffers[index], messages[index].msg_len, ttl_seconds);
			if (parts[index].iov_len)
				replies[reply_count++] = messages[index];
			else
				seen.odd++;
		}
		for (int sent = 0; sent < reply_count;) {
			int result = sendmmsg(fd, replies + sent, reply_count - sent, 0);

			/* What cannot be sent is lost, as with any server. */
			sent += result > 0 ? result : 1;
		}
	}
}

/* ---- client */

#define OPERATIONS_MAX 65536
#define EVENTS_MAX 256
#define CONNECT_PORT 80
#define QUERY_MS 5000
/* Less than the second after which a SYN is sent again. */
#define CONNECT_MS 900
#define PROBE_MS 300
#define SCAN_EVERY_NS (10 * MS_NS)
/* Latencies in buckets of 1 us; the last takes all that is longer. */
#define BUCKETS 1000000
#define SECOND_COUNT_MAX 65536
#define SECONDS_MAX 86400

enum kind { NAME, OTHER, DENIED, UNTAUGHT, OLD, KIND_COUNT };
enum mode { ENFORCED, OPEN, ANSWERS };

static const char *const kind_names[] = { "name", "other", "denied", "untaught", "old" };
static const char *const mode_names[] = { "enforced", "open", "answers" };

struct operation {
	int fd, active_index;
	enum kind kind;
	int is_connecting;
	uint32_t number, address;
	uint16_t id;
	uint64_t started_ns, deadline_ns;
};

static struct operation operations[OPERATIONS_MAX], *active[OPERATIONS_MAX], *unused[OPERATIONS_MAX];
static int active_count, unused_count, poll_fd;
static uint32_t query_us[BUCKETS], connect_us[BUCKETS];
static struct sockaddr_in server = { .sin_family = AF_INET };
static enum mode mode;
/* Of the names that were answered since the last second began, and the 99th percentile of each second. */
static uint32_t second_us[SECOND_COUNT_MAX], p99_us[SECONDS_MAX];
static int second_count, ended_seconds;
static uint64_t asked, answered, unanswered, wrong_answers, connected, failed, no_room;
static uint64_t tried[KIND_COUNT], wrong[KIND_COUNT];
static uint32_t first_wrong[KIND_COUNT];
static int last_error;

static void tell_wrong(const struct operation *operation)
{
	if (wrong[operation->kind]++ == 0)
		first_wrong[operation->kind] = operation->number;
}

static void end(struct operation *operation)
{
	struct operation *last = active[--active_count];

	close(operation->fd);
	active[operation->active_index] = last;
	last->active_index = operation->active_index;
	unused[unused_count++] = operation;
}

static int watch(struct operation *operation, int type, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = operation };

	operation->fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (operation->fd < 0)
		die("socket");
	return epoll_ctl(poll_fd, EPOLL_CTL_ADD, operation->fd, &event);
}

/** A connection was made, or was not in time. */
static void judge_connection(struct operation *operation, int is_made)
{
	if (operation->kind == NAME) {
		if (is_made) {
			uint64_t us = (now_ns() - operation->started_ns) / 1000;

			connected++;
			connect_us[us < BUCKETS ? us : BUCKETS - 1]++;
		} else {
			if (failed++ == 0)
				first_wrong[NAME] = operation->number;
		}
	} else if (is_made != (mode == OPEN)) {
		tell_wrong(operation);
	}
	end(operation);
}

static void begin_connecting(struct operation *operation, uint64_t time_ns)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(CONNECT_PORT), .sin_addr.s_addr = htonl(operation->address)
	};

	operation->is_connecting = 1;
	operation->started_ns = time_ns;
	operation->deadline_ns = time_ns + (operation->kind == NAME ? CONNECT_MS : PROBE_MS) * MS_NS;
	watch(operation, SOCK_STREAM, EPOLLOUT);
	if (connect(operation->fd, (struct sockaddr *)&address, sizeof(address)) && errno != EINPROGRESS) {
		last_error = errno;
		judge_connection(operation, 0);
	}
}

static size_t encode_query(unsigned char *message, const struct operation *operation)
{
	static const char *const zones[] = { [NAME] = "\3sel\4test", [OTHER] = "\5other\4test", [DENIED] = "\6denied\4test" };
	static const char letters[] = { [NAME] = 's', [OTHER] = 'o', [DENIED] = 'd' };
	size_t length, at = HEADER_BYTES;

	memset(message, 0, HEADER_BYTES);
	put16(message, operation->id);
	message[2] = 1;
	message[5] = 1;
	length = sprintf((char *)message + at + 1, "%c%u", letters[operation->kind], operation->number);
	message[at] = length;
	at += 1 + length;
	length = strlen(zones[operation->kind]) + 1;
	memcpy(message + at, zones[operation->kind], length);
	at += length;
	put16(message + at, TYPE_A);
	put16(message + at + 2, CLASS_IN);
	return at + 4;
}

static void begin(enum kind kind, uint32_t number)
{
	struct operation *operation;
	unsigned char message[MESSAGE_BYTES_MAX];
	size_t length;

	if (unused_count == 0) {
		no_room++;
		return;
	}
	operation = unused[--unused_count];
	*operation = (struct operation){ .fd = -1, .kind = kind, .number = number, .id = random(), .active_index = active_count };
	active[active_count++] = operation;
	tried[kind]++;
	if (kind == UNTAUGHT || kind == OLD) {
		operation->address = kind == OLD ? address_of('s', number) : BASE_ADDRESS + 2 * RANGE + number % RANGE;
		begin_connecting(operation, now_ns());
		return;
	}
	watch(operation, SOCK_DGRAM, EPOLLIN);
	connect(operation->fd, (struct sockaddr *)&server, sizeof(server));
	length = encode_query(message, operation);
	asked++;
	operation->started_ns = now_ns();
	operation->deadline_ns = operation->started_ns + QUERY_MS * MS_NS;
	if (send(operation->fd, message, length, 0) != (ssize_t)length)
		last_error = errno;
}

/** @returns whether it has the one address that the name stands for */
static int is_right(const struct operation *operation, const unsigned char *message, size_t length)
{
	unsigned char query[MESSAGE_BYTES_MAX];
	size_t query_length = encode_query(query, operation), name_length = query_length - HEADER_BYTES - 4, at = query_length;
	uint32_t address = htonl(address_of("sod"[operation->kind], operation->number));

	if (length < query_length + ANSWER_BYTES || (message[3] & 15) != 0 || get16(message + 6) != 1 ||
	    memcmp(message + HEADER_BYTES, query + HEADER_BYTES, query_length - HEADER_BYTES))
		return 0;
	/* The owner is a pointer to the question, or written out. */
	if (get16(message + at) == (0xc000 | HEADER_BYTES))
		at += 2;
	else if (length >= at + name_length && !memcmp(message + at, query + HEADER_BYTES, name_length))
		at += name_length;
	else
		return 0;
	return length >= at + ANSWER_BYTES - 2 && get16(message + at) == TYPE_A && !memcmp(message + at + 10, &address, 4);
}

static void take_answer(struct operation *operation)
{
	unsigned char message[MESSAGE_BYTES_MAX];
	ssize_t length = recv(operation->fd, message, sizeof(message), 0);
	uint64_t time_ns = now_ns();

	if (length < HEADER_BYTES || get16(message) != operation->id) {
		last_error = length < 0 ? errno : 0;
		return;
	}
	answered++;
	if (operation->kind == DENIED && mode == ENFORCED) {
		if ((message[3] & 15) != RCODE_REFUSED || get16(message + 6) != 0)
			tell_wrong(operation);
		end(operation);
		return;
	}
	if (operation->kind == NAME) {
		uint64_t us = (time_ns - operation->started_ns) / 1000;

		query_us[us < BUCKETS ? us : BUCKETS - 1]++;
		if (second_count < SECOND_COUNT_MAX)
			second_us[second_count++] = us;
	}
	if (!is_right(operation, message, length))
		wrong_answers++;
	else if (mode != ANSWERS && operation->kind != DENIED) {
		close(operation->fd);
		operation->address = address_of("so"[operation->kind], operation->number);
		begin_connecting(operation, time_ns);
		return;
	}
	end(operation);
}

static void scan(uint64_t time_ns)
{
	for (int index = active_count - 1; index >= 0; index--) {
		struct operation *operation = active[index];

		if (operation->deadline_ns > time_ns)
			continue;
		if (operation->is_connecting) {
			judge_connection(operation, 0);
		} else {
			unanswered++;
			end(operation);
		}
	}
}

static int compare(const void *one, const void *other)
{
	uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;

	return (a > b) - (a < b);
}

static void end_second(void)
{
	if (second_count == 0 || ended_seconds == SECONDS_MAX)
		return;
	qsort(second_us, second_count, sizeof(*second_us), compare);
	p99_us[ended_seconds++] = second_us[(second_count * 99 + 99) / 100 - 1];
	second_count = 0;
}

static uint32_t quantile_us(const uint32_t *histogram, double share)
{
	uint64_t total = 0, sum = 0;

	for (int us = 0; us < BUCKETS; us++)
		total += histogram[us];
	for (int us = 0; us < BUCKETS; us++) {
		sum += histogram[us];
		if (sum >= share * total && sum > 0)
			return us;
	}
	return 0;
}

static void begin_probe(uint32_t number, uint32_t first, uint64_t old_count)
{
	static unsigned turn;

	switch (turn++ % 4) {
	case 0:
		begin(OTHER, number);
		break;
	case 1:
		begin(DENIED, number);
		break;
	case 2:
		if (mode != ANSWERS)
			begin(UNTAUGHT, number);
		break;
	case 3:
		if (mode != ANSWERS && old_count > 0 && number - first >= old_count)
			begin(OLD, number - old_count);
	}
}

static void print_report(double seconds)
{
	struct rusage usage;

	end_second();
	qsort(p99_us, ended_seconds, sizeof(*p99_us), compare);
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"p99OfSecondsUs\":%u", ended_seconds ? p99_us[ended_seconds / 2] : 0);
	printf(",\"asked\":%lu,\"answered\":%lu,\"unanswered\":%lu,\"wrongAnswers\":%lu,\"connected\":%lu,\"failed\":%lu,\"noRoom\":%lu",
	       asked, answered, unanswered, wrong_answers, connected, failed, no_room);
	printf(",\"tried\":{");
	for (int kind = 0; kind < KIND_COUNT; kind++)
		printf("%s\"%s\":%lu", kind ? "," : "", kind_names[kind], tried[kind]);
	printf("},\"wrong\":{");
	for (int kind = OTHER; kind < KIND_COUNT; kind++)
		printf("%s\"%s\":%lu", kind > OTHER ? "," : "", kind_names[kind], wrong[kind]);
	printf("},\"firstWrong\":{");
	for (int kind = 0; kind < KIND_COUNT; kind++)
		printf("%s\"%s\":%u", kind ? "," : "", kind_names[kind], first_wrong[kind]);
	printf("},\"queryUs\":{\"p50\":%u,\"p99\":%u,\"p999\":%u,\"max\":%u}", quantile_us(query_us, 0.5), quantile_us(query_us, 0.99),
	       quantile_us(query_us, 0.999), quantile_us(query_us, 1));
	printf(",\"connectUs\":{\"p50\":%u,\"p99\":%u,\"p999\":%u,\"max\":%u}", quantile_us(connect_us, 0.5), quantile_us(connect_us, 0.99),
	       quantile_us(connect_us, 0.999), quantile_us(connect_us, 1));
	printf(",\"seconds\":%.3f,\"error\":\"%s\",\"processorUs\":%ld}\n", seconds, last_error ? strerror(last_error) : "",
	       (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000L + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static int ask(uint64_t rate, uint64_t count, uint32_t first, uint64_t probe_every, uint64_t old_seconds)
{
	uint64_t begun = 0, started_ns = now_ns(), scanned_ns = 0, second_ns = started_ns;
	struct epoll_event events[EVENTS_MAX], event = { .events = EPOLLIN, .data.ptr = 0 };
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	struct itimerspec period = { { rate == 1, rate == 1 ? 0 : SECOND_NS / rate }, { 0, 1 } };

	poll_fd = epoll_create1(EPOLL_CLOEXEC);
	for (int index = 0; index < OPERATIONS_MAX; index++)
		unused[unused_count++] = &operations[OPERATIONS_MAX - 1 - index];
	timerfd_settime(timer, 0, &period, 0);
	epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer, &event);
	srandom(started_ns);
	while (begun < count || active_count > 0) {
		int ready = epoll_wait(poll_fd, events, EVENTS_MAX, SCAN_EVERY_NS / MS_NS);
		uint64_t time_ns = now_ns(), due;

		for (int index = 0; index < ready; index++) {
			struct operation *operation = events[index].data.ptr;

			if (operation && operation->is_connecting) {
				int error = 0;
				socklen_t length = sizeof(error);

				getsockopt(operation->fd, SOL_SOCKET, SO_ERROR, &error, &length);
				if (error)
					last_error = error;
				judge_connection(operation, error == 0);
			} else if (operation) {
				take_answer(operation);
			} else if (read(timer, &due, sizeof(due)) == sizeof(due)) {
				for (; due > 0 && begun < count; due--, begun++) {
					begin(NAME, first + begun);
					if (probe_every && begun % probe_every == 0)
						begin_probe(first + begun, first, old_seconds * rate);
				}
			}
		}
		if (time_ns - scanned_ns >= SCAN_EVERY_NS) {
			scan(time_ns);
			scanned_ns = time_ns;
		}
		if (time_ns - second_ns >= SECOND_NS) {
			end_second();
			second_ns = time_ns;
		}
	}
	print_report((now_ns() - started_ns) / (double)SECOND_NS);
	return 0;
}

int main(int count, char **values)
{
	if (count == 4 && !strcmp(values[1], "responder"))
		return respond(atoi(values[2]), atoi(values[3]));
	if (count == 9 && !strcmp(values[1], "client")) {
		if (inet_pton(AF_INET, values[2], &server.sin_addr) != 1)
			die("address");
		server.sin_port = htons(53);
		while (strcmp(values[6], mode_names[mode]))
			if (++mode > ANSWERS)
				die("mode");
		return ask(atoll(values[3]), atoll(values[4]), atoll(values[5]), atoll(values[7]), atoll(values[8]));
	}
	fprintf(stderr, "usage: dns-load responder PORT TTL_SECONDS | client SERVER RATE COUNT FIRST enforced|open|answers PROBE_EVERY OLD_SECONDS\n");
	return 2;
}
