// What getaddrinfo of the C library that this is built with says. Usage: getaddrinfo PORT NAME…; a line for each name: the name, OK or the
// error, milliseconds, and its addresses, each with + if a TCP connection to PORT opens within half a second and - if not.
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_MS 500
#define ADDRESSES_MAX 256

static long ms_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - start->tv_sec) * 1000 + (now.tv_nsec - start->tv_nsec) / 1000000;
}

static const char *error_name(int code)
{
	switch (code) {
	case 0: return "OK";
	case EAI_AGAIN: return "EAI_AGAIN";
	case EAI_FAIL: return "EAI_FAIL";
	case EAI_NONAME: return "EAI_NONAME";
	case EAI_SYSTEM: return "EAI_SYSTEM";
	// Both libraries have it, and neither without asking.
	case -5: return "EAI_NODATA";
	default: return gai_strerror(code);
	}
}

// Prints addresses, after connecting to all of them at once.
static void try_all(const struct addrinfo *list)
{
	struct pollfd waiting[ADDRESSES_MAX];
	int opened[ADDRESSES_MAX] = {0};
	int count = 0, left = 0, index = 0;
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (const struct addrinfo *address = list; address && count < ADDRESSES_MAX; address = address->ai_next, count++) {
		int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK, 0);

		waiting[count] = (struct pollfd){.fd = fd, .events = POLLOUT};
		if (connect(fd, address->ai_addr, address->ai_addrlen) == 0 || errno == EINPROGRESS)
			left++;
		else
			waiting[count].fd = -1;
	}
	while (left > 0 && ms_since(&start) < CONNECT_MS && poll(waiting, count, CONNECT_MS - ms_since(&start)) > 0) {
		for (int each = 0; each < count; each++) {
			int error = -1;
			socklen_t length = sizeof(error);

			if (waiting[each].fd < 0 || waiting[each].revents == 0)
				continue;
			getsockopt(waiting[each].fd, SOL_SOCKET, SO_ERROR, &error, &length);
			opened[each] = error == 0;
			close(waiting[each].fd);
			waiting[each].fd = -1;
			left--;
		}
	}
	for (const struct addrinfo *address = list; index < count; address = address->ai_next, index++) {
		char text[INET6_ADDRSTRLEN];

		getnameinfo(address->ai_addr, address->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST);
		printf(" %s%c", text, opened[index] ? '+' : '-');
		if (waiting[index].fd >= 0)
			close(waiting[index].fd);
	}
}

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};

	for (int index = 2; index < argc; index++) {
		struct addrinfo *list = NULL;
		struct timespec start;

		clock_gettime(CLOCK_MONOTONIC, &start);
		int code = getaddrinfo(argv[index], argv[1], &hints, &list);
		printf("%s %s %ld", argv[index], error_name(code), ms_since(&start));
		try_all(list);
		printf("\n");
		fflush(stdout);
	}
}
