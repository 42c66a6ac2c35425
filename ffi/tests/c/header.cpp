// C++ can include the header, and link.
#include <nvmehost.h>

int main() { return nvmeh_version_number() == 0 || nvmeh_version() == nullptr; }
