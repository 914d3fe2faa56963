// SPDX-License-Identifier: MIT
/* Check one configuration and print it as lines KEY=value, for bash to read (not to execute). */
#include <getopt.h>

#include "runner.h"

int main(int argc, char **argv)
{
	const struct conf *conf;
	int key;

	if (argc != 2 || argv[1][0] == '-')
		die("usage: config FILE");
	conf = conf_read(argv[1]);
	for (key = 0; key < CONF_KEYS; key++)
		printf("%s=%s\n", conf_key_name(key), conf->value[key]);
	return 0;
}
