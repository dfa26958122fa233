from tests.sharing import keep_to_own_cores

keep_to_own_cores()
