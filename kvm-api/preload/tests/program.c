/* A program that makes requests, and ends as its arguments say. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#define KVM_RUN 0xae80
#define KVM_NMI 0xae9a

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "requests")) {
			for (int j = 0; j < 3; j++)
				ioctl(-1, KVM_RUN, 0);
			ioctl(-1, KVM_NMI, 0);
		} else if (!strcmp(argv[i], "fork")) {
			if (fork())
				wait(NULL);
		} else if (!strcmp(argv[i], "vfork")) {
			if (!vfork())
				_exit(0);
		} else if (!strcmp(argv[i], "chdir")) {
			if (chdir("/"))
				return 1;
		} else if (!strcmp(argv[i], "_exit")) {
			_exit(7);
		} else if (!strcmp(argv[i], "abort")) {
			abort();
		} else if (!strcmp(argv[i], "close")) {
			close(2);
		} else if (!strcmp(argv[i], "reuse")) {
			close(2);
			if (open("other", O_CREAT | O_RDWR, 0600) != 2)
				return 1;
		} else if (!strcmp(argv[i], "exec")) {
			execlp(argv[0], argv[0], "requests", NULL);
		}
	}
	return 7;
}
