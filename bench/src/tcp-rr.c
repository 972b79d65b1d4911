// SPDX-License-Identifier: Apache-2.0
/*
 * TCP request/response and connect rate, one byte each way, checked.
 *
 *   tcp-rr server PORT...
 *     Answers each byte with its complement; a closed connection is closed. One thread, epoll.
 *   tcp-rr client rr|crr ADDRESS SECONDS CONNECTIONS PORT,PORT... [PROBE_PORT open|denied]
 *     rr: a byte and its answer again and again on each connection. crr: connect, a byte and its answer, close, again and again.
 *     Connections take the ports in turn. Beside it, every 100 ms, a connection to PROBE_PORT is tried, which has to be made (open),
 *     or must not be within 300 ms (denied). Prints one JSON line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024
#define PORTS_MAX 64
#define EVENTS_MAX 256
#define PROBE_EVERY_NS 100000000ULL
#define PROBE_WAIT_NS 300000000ULL
/* Latencies in buckets of 1 us; the last takes all that is longer. */
#define BUCKETS 1000000

static void die(const char *what)
{
	fprintf(stderr, "tcp-rr: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static int tcp_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		die("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* ---- server */

static int serve(int count, char **ports)
{
	struct epoll_event event, events[EVENTS_MAX];
	int poll = epoll_create1(EPOLL_CLOEXEC), listener_last = 0, one = 1;

	for (int i = 0; i < count; i++) {
		struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(ports[i])) };
		int fd = tcp_socket();

		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 4096))
			die("listen");
		event = (struct epoll_event){ .events = EPOLLIN, .data.fd = fd };
		epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
		listener_last = fd;
	}
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		int ready = epoll_wait(poll, events, EVENTS_MAX, -1);

		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd;
			unsigned char byte;

			if (fd <= listener_last) {
				int accepted = accept4(fd, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);

				if (accepted < 0)
					continue;
				setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				event = (struct epoll_event){ .events = EPOLLIN, .data.fd = accepted };
				epoll_ctl(poll, EPOLL_CTL_ADD, accepted, &event);
				continue;
			}
			ssize_t length = read(fd, &byte, 1);

			if (length == 1) {
				byte = ~byte;
				if (write(fd, &byte, 1) != 1)
					close(fd);
			} else if (length == 0 || errno != EAGAIN) {
				close(fd);
			}
		}
	}
}

/* ---- client */

struct connection {
	int fd;
	int is_connected;
	unsigned char byte;
	uint64_t started_ns;
};

static struct connection connections[CONNECTIONS_MAX];
static uint32_t histogram[BUCKETS];
static struct sockaddr_in server = { .sin_family = AF_INET };
static int ports[PORTS_MAX], port_count, next_port, poll_fd;
static uint64_t done, wrong, failed, probes, probes_wrong;
static int last_error;

static void fail(void)
{
	failed++;
	last_error = errno;
}

static void send_byte(struct connection *connection)
{
	connection->byte++;
	if (write(connection->fd, &connection->byte, 1) != 1)
		fail();
}

static void begin(struct connection *connection)
{
	struct epoll_event event = { .events = EPOLLOUT, .data.ptr = connection };

	connection->fd = tcp_socket();
	connection->is_connected = 0;
	connection->started_ns = now_ns();
	server.sin_port = htons(ports[next_port++ % port_count]);
	if (connect(connection->fd, (struct sockaddr *)&server, sizeof(server)) && errno != EINPROGRESS)
		fail();
	epoll_ctl(poll_fd, EPOLL_CTL_ADD, connection->fd, &event);
}

static void count(struct connection *connection)
{
	uint64_t now = now_ns(), us = (now - connection->started_ns) / 1000;

	histogram[us < BUCKETS ? us : BUCKETS - 1]++;
	connection->started_ns = now;
	done++;
}

static void advance(struct connection *connection, int is_crr)
{
	unsigned char answer;
	ssize_t length;

	if (!connection->is_connected) {
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = connection };
		int error = 0;
		socklen_t size = sizeof(error);

		getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		if (error) {
			errno = error;
			fail();
			close(connection->fd);
			begin(connection);
			return;
		}
		connection->is_connected = 1;
		epoll_ctl(poll_fd, EPOLL_CTL_MOD, connection->fd, &event);
		if (!is_crr)
			connection->started_ns = now_ns();
		send_byte(connection);
		return;
	}
	length = read(connection->fd, &answer, 1);
	if (length < 0 && errno == EAGAIN)
		return;
	if (length != 1) {
		fail();
		close(connection->fd);
		begin(connection);
		return;
	}
	if (answer != (unsigned char)~connection->byte)
		wrong++;
	if (is_crr) {
		close(connection->fd);
		count(connection);
		begin(connection);
	} else {
		count(connection);
		send_byte(connection);
	}
}

struct probe {
	int fd, port, is_open;
	uint64_t started_ns, next_ns;
};

static void probe_end(struct probe *probe, int is_connected)
{
	close(probe->fd);
	probe->fd = -1;
	probes++;
	if (is_connected != probe->is_open)
		probes_wrong++;
}

static void probe_step(struct probe *probe, uint64_t now)
{
	struct sockaddr_in address = server;
	struct tcp_info info;
	socklen_t size = sizeof(info);

	if (probe->fd < 0) {
		if (now < probe->next_ns)
			return;
		probe->next_ns = now + PROBE_EVERY_NS;
		probe->started_ns = now;
		probe->fd = tcp_socket();
		address.sin_port = htons(probe->port);
		connect(probe->fd, (struct sockaddr *)&address, sizeof(address));
		return;
	}
	if (!getsockopt(probe->fd, IPPROTO_TCP, TCP_INFO, &info, &size) && info.tcpi_state == TCP_ESTABLISHED)
		probe_end(probe, 1);
	else if (now - probe->started_ns > PROBE_WAIT_NS)
		probe_end(probe, 0);
}

static uint32_t percentile_us(double share)
{
	uint64_t seen = 0;

	for (uint32_t us = 0; us < BUCKETS; us++) {
		seen += histogram[us];
		if (seen >= done * share)
			return us;
	}
	return BUCKETS;
}

static int ask(int is_crr, const char *address, double seconds, int connection_count, char *port_list, struct probe *probe)
{
	struct epoll_event events[EVENTS_MAX];
	uint64_t started, ends, now;
	struct rusage usage;

	if (!inet_aton(address, &server.sin_addr) || connection_count < 1 || connection_count > CONNECTIONS_MAX)
		die("arguments");
	for (char *port = strtok(port_list, ","); port && port_count < PORTS_MAX; port = strtok(0, ","))
		ports[port_count++] = atoi(port);
	poll_fd = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < connection_count; i++)
		begin(&connections[i]);
	started = now = now_ns();
	ends = started + (uint64_t)(seconds * 1e9);
	while (now < ends) {
		int ready = epoll_wait(poll_fd, events, EVENTS_MAX, 10);

		for (int i = 0; i < ready; i++)
			advance(events[i].data.ptr, is_crr);
		now = now_ns();
		if (probe)
			probe_step(probe, now);
	}
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"operations\":%llu,\"seconds\":%.6f,\"p50Us\":%u,\"p99Us\":%u,\"wrong\":%llu,\"failed\":%llu,\"error\":\"%s\","
	       "\"probes\":%llu,\"probesWrong\":%llu,\"processorUs\":%.0f}\n",
	       (unsigned long long)done, (now - started) / 1e9, percentile_us(0.5), percentile_us(0.99), (unsigned long long)wrong,
	       (unsigned long long)failed, last_error ? strerror(last_error) : "", (unsigned long long)probes,
	       (unsigned long long)probes_wrong,
	       (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "server"))
		return serve(argc - 2, argv + 2);
	if ((argc == 7 || argc == 9) && !strcmp(argv[1], "client")) {
		struct probe probe = { .fd = -1 };

		if (argc == 9) {
			probe.port = atoi(argv[7]);
			probe.is_open = !strcmp(argv[8], "open");
		}
		return ask(!strcmp(argv[2], "crr"), argv[3], atof(argv[4]), atoi(argv[5]), argv[6], argc == 9 ? &probe : 0);
	}
	fprintf(stderr, "usage: tcp-rr server PORT... | tcp-rr client rr|crr ADDRESS SECONDS CONNECTIONS PORTS [PROBE_PORT open|denied]\n");
	return 2;
}
