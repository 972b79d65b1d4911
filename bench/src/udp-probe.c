// SPDX-License-Identifier: Apache-2.0
/*
 * Watches which UDP ports of a receiver can be reached from a sender, packet by packet.
 *
 *   udp-probe FROM_NETNS TO_NETNS ADDRESS INTERVAL_US PORT...
 *
 * Sends a numbered packet to each port every INTERVAL_US, and looks whether it has arrived before the next one leaves. Prints a line
 * for each change of a port: `pass PORT NS` or `block PORT NS`, with the monotonic time at which the first packet of the new kind was
 * sent. A port is blocked after LOST_MIN packets in a row are gone; one of those arriving late is told as `late PORT NS`. Runs until
 * standard input ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORTS_MAX 8
#define LOST_MIN 4

struct packet {
	uint64_t number;
	uint64_t sent_ns;
};

struct target {
	int port, sender, receiver;
	/* -1 before anything is known */
	int is_passing;
	uint64_t number, lost, first_lost_ns, sent_ns;
};

static void die(const char *what)
{
	fprintf(stderr, "udp-probe: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static void enter(const char *netns)
{
	int fd = open(netns, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(netns);
	close(fd);
}

static int udp_socket(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	return fd;
}

static void say(const char *what, int port, uint64_t ns)
{
	printf("%s %d %llu\n", what, port, (unsigned long long)ns);
	fflush(stdout);
}

/* Judges the packet that was sent last. */
static void look(struct target *target)
{
	struct packet packet;
	int has_arrived = 0;

	while (recv(target->receiver, &packet, sizeof(packet), 0) == sizeof(packet)) {
		if (packet.number == target->number)
			has_arrived = 1;
		else if (target->is_passing == 0)
			say("late", target->port, packet.sent_ns);
	}
	if (target->number == 0)
		return;
	if (has_arrived) {
		if (target->is_passing != 1)
			say("pass", target->port, target->sent_ns);
		target->is_passing = 1;
		target->lost = 0;
		return;
	}
	if (target->lost++ == 0)
		target->first_lost_ns = target->sent_ns;
	if (target->lost == LOST_MIN && target->is_passing != 0) {
		say("block", target->port, target->first_lost_ns);
		target->is_passing = 0;
	}
}

int main(int argc, char **argv)
{
	struct target targets[PORTS_MAX];
	int count = argc - 5;
	uint64_t interval_ns, due;

	if (count < 1 || count > PORTS_MAX) {
		fprintf(stderr, "usage: udp-probe FROM_NETNS TO_NETNS ADDRESS INTERVAL_US PORT...\n");
		return 2;
	}
	interval_ns = strtoull(argv[4], 0, 10) * 1000;
	enter(argv[2]);
	for (int i = 0; i < count; i++) {
		struct sockaddr_in any = { .sin_family = AF_INET };

		targets[i] = (struct target){ .port = atoi(argv[5 + i]), .receiver = udp_socket(), .is_passing = -1 };
		any.sin_port = htons(targets[i].port);
		if (bind(targets[i].receiver, (struct sockaddr *)&any, sizeof(any)))
			die("bind");
	}
	enter(argv[1]);
	for (int i = 0; i < count; i++)
		targets[i].sender = udp_socket();
	/* The default slack of 50 us is a good part of an interval. */
	prctl(PR_SET_TIMERSLACK, 1);
	for (due = now_ns();; due += interval_ns) {
		struct timespec until = { .tv_sec = due / 1000000000ULL, .tv_nsec = due % 1000000000ULL };
		struct pollfd input = { .fd = 0, .events = POLLIN };

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, 0);
		for (int i = 0; i < count; i++) {
			struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(targets[i].port) };
			struct packet packet;

			look(&targets[i]);
			inet_aton(argv[3], &address.sin_addr);
			packet.number = ++targets[i].number;
			packet.sent_ns = targets[i].sent_ns = now_ns();
			/* A refusal of the device's program is an answer too: the packet is lost. */
			sendto(targets[i].sender, &packet, sizeof(packet), 0, (struct sockaddr *)&address, sizeof(address));
		}
		if (poll(&input, 1, 0) > 0) {
			char rest[64];

			if (read(0, rest, sizeof(rest)) <= 0)
				return 0;
		}
	}
}
