/* A program that makes requests, and ends as its arguments say. */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KVM_RUN 0xae80
#define KVM_NMI 0xae9a

static int is_open(int fd)
{
	return fcntl(fd, F_GETFD) != -1;
}

/* Each function that changes descriptors, which the library replaces. */
static int change_descriptors(void)
{
	int ends[2];
	FILE *file;
	DIR *dir;

	if (pipe(ends) || dup2(ends[0], 50) != 50 || !is_open(50))
		return 1;
	if (dup3(ends[0], 51, O_CLOEXEC) != 51 || fcntl(51, F_GETFD) != FD_CLOEXEC)
		return 2;
	if (close(50) || is_open(50) || close(50) != -1)
		return 3;
	if (syscall(SYS_dup2, ends[0], 50) != 50 || syscall(SYS_close, 50) || is_open(50))
		return 4;
	if (syscall(SYS_close, 50) != -1 || syscall(SYS_getpid) != getpid())
		return 5;
	file = fdopen(dup2(ends[0], 52), "r");
	if (!file || !freopen("/dev/null", "r", file) || fgetc(file) != EOF || fclose(file))
		return 6;
	dir = fdopendir(dup2(open("/", O_RDONLY), 53));
	if (!dir || !readdir(dir) || closedir(dir) || is_open(53))
		return 7;
	if (close_range(51, 51, 0) || is_open(51) || !is_open(ends[0]))
		return 8;
	closefrom(ends[0]);
	return is_open(ends[0]) || is_open(ends[1]) || !is_open(2) ? 9 : 0;
}

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
		} else if (!strcmp(argv[i], "descriptors")) {
			int failed = change_descriptors();

			if (failed)
				return failed + 10;
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
