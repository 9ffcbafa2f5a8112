// How the catalogue's file is read while writers come and go, and which runs are refused. What is read from a whole
// store is in tests/embedding, since only Python writes stores.
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "catalog/runs.h"
#include "catalog/sqlite_access.h"
#include "check.h"
#include "format/errors.h"
#include "shard_file.h"

using namespace mome;
using namespace mome::test;

namespace {

// A database in WAL mode with a row of 10,000 bytes for each call of `add`, so that its size tells of every one.
class Database {
  public:
    explicit Database(const TemporaryFolder& folder) : path_((folder.path() / "catalog.sqlite").string()) {
        write("PRAGMA journal_mode=WAL; CREATE TABLE rows (value)");
    }

    // The whole life of a writer; its end puts the WAL into the file and removes it.
    void add() const { write("INSERT INTO rows VALUES (zeroblob(10000))"); }

    const std::string& path() const { return path_; }

  private:
    void write(const char* sql) const {
        sqlite3* opened = nullptr;
        const int code = sqlite3_open(path_.c_str(), &opened);
        const std::unique_ptr<sqlite3, decltype(&sqlite3_close)> database(opened, &sqlite3_close);
        if (code != SQLITE_OK || sqlite3_exec(opened, sql, nullptr, nullptr, nullptr) != SQLITE_OK)
            throw std::runtime_error(sqlite3_errmsg(opened));
    }

    std::string path_;
};

int64_t count(const Connection& connection) {
    Statement rows(connection, "SELECT count(*) FROM rows");
    rows.step();
    return rows.integer(0);
}

// Groups 1 to 5, of which 1 to 3 have two experts each and 5 has three; group 4 and its expert 7 are gone.
struct Runs {
    std::vector<GroupRun> groups{{.id = 1, .groups = 3, .mode = Mode::owned, .activation = Activation::answer},
                                 {.id = 5, .groups = 1, .mode = Mode::pool, .activation = Activation::all}};
    std::vector<ExpertRun> experts{{.row = 0, .id = 1, .group_id = 1, .groups = 3, .per_group = 2},
                                   {.row = 7, .id = 8, .group_id = 5, .groups = 1, .per_group = 3}};

    void check(int64_t rows = 10) const { check_runs(groups, experts, rows, "catalog.sqlite"); }
};

}  // namespace

TEST("what the whole life of a writer overtook is read again") {
    const TemporaryFolder folder;
    const Database database(folder);
    int calls = 0;
    int64_t found = -1;
    read_catalog(database.path(), [&](const Connection& connection) {
        found = count(connection);
        if (++calls == 1) database.add();
    });
    CHECK(calls == 2 && found == 1);
}

TEST("a file that changes during every read is given up") {
    const TemporaryFolder folder;
    const Database database(folder);
    CHECK_THROWS(ReadError, read_catalog(database.path(), [&](const Connection&) { database.add(); }),
                 error.error_number == EAGAIN && error.path == database.path());
}

TEST("an error counts only if the file is still what it was") {
    const TemporaryFolder folder;
    const Database database(folder);
    int calls = 0;
    read_catalog(database.path(), [&](const Connection&) {
        if (++calls > 1) return;
        database.add();
        throw DamagedStoreError("half of a state", std::nullopt, std::nullopt, "");
    });
    CHECK(calls == 2);
    CHECK_THROWS(SchemaError,
                 read_catalog(database.path(), [](const Connection&) { throw SchemaError("of the query"); }));
}

TEST("a value of another type and a statement that fails are damage") {
    const TemporaryFolder folder;
    const Database database(folder);
    database.add();
    const auto first = [](const char* sql) {
        return [sql](const Connection& connection) {
            Statement rows(connection, sql);
            rows.step();
            static_cast<void>(rows.integer(0));
        };
    };
    CHECK_THROWS(DamagedStoreError, read_catalog(database.path(), first("SELECT value FROM rows")),
                 error.file == database.path());
    CHECK_THROWS(DamagedStoreError, read_catalog(database.path(), first("SELECT value FROM nothing")));
    CHECK_THROWS(DamagedStoreError, read_catalog(folder.path() / "none", first("SELECT 1")));
}

TEST("a WAL of a dead writer is left where it is, though nothing in it is whole") {
    const TemporaryFolder folder;
    const Database database(folder);
    const std::string wal = database.path() + "-wal";
    std::ofstream(wal) << "the head of a WAL was meant to be here";
    read_catalog(database.path(), [&](const Connection& connection) { CHECK(count(connection) == 0); });
    CHECK(std::filesystem::exists(wal));
}

TEST("runs that fit each other pass, in any order and up to the last number that there is") {
    Runs().check();
    Runs().check(9);
    check_runs({}, {}, 0, "catalog.sqlite");
    Runs reversed;
    std::ranges::reverse(reversed.groups);
    std::ranges::reverse(reversed.experts);
    reversed.check();
    Runs last;
    const int64_t most = std::numeric_limits<int64_t>::max();
    last.groups[1].id = last.experts[1].group_id = most - 1;
    last.experts[1].row = last.experts[1].id = most - 3;
    last.check();
}

TEST("the groups of one run of experts may be in several runs of groups, and the other way round") {
    Runs runs;
    runs.groups = {runs.groups[0], runs.groups[0], runs.groups[1]};
    runs.groups[0].groups = 1;
    runs.groups[1] = {.id = 2, .groups = 2, .mode = Mode::pool, .activation = Activation::answer};
    runs.check();
    runs.experts[0].groups = 2;
    runs.experts.push_back({.row = 4, .id = 5, .group_id = 3, .groups = 1, .per_group = 2});
    runs.check();
}

TEST("runs that no writer makes are damage, whatever their numbers") {
    const int64_t most = std::numeric_limits<int64_t>::max();
    const int64_t least = std::numeric_limits<int64_t>::min();
    const std::vector<std::function<void(Runs&)>> changes{
        [](Runs& runs) { runs.groups[0].groups = 0; },
        [](Runs& runs) { runs.groups[0].groups = -1; },
        [&](Runs& runs) { runs.groups[0].groups = least; },
        [&](Runs& runs) { runs.groups[1].groups = most; },
        [](Runs& runs) { runs.groups[0].id = 0; },
        [&](Runs& runs) { runs.groups[0].id = least; },
        [&](Runs& runs) { runs.groups[0].id = most; },
        [](Runs& runs) { runs.groups[0].mode = static_cast<Mode>(2); },
        [](Runs& runs) { runs.groups[0].activation = static_cast<Activation>(-1); },
        [](Runs& runs) { runs.groups[0].groups = 2; },
        [](Runs& runs) { runs.groups[0].groups = 4; },
        [](Runs& runs) { runs.groups[1].id = 3; },
        [](Runs& runs) { runs.groups.pop_back(); },
        [](Runs& runs) { runs.experts.pop_back(); },
        [](Runs& runs) { runs.experts[0].groups = -3; },
        [](Runs& runs) { runs.experts[0].per_group = 0; },
        [](Runs& runs) { runs.experts[0].per_group = -2; },
        [](Runs& runs) { runs.experts[0].groups = runs.experts[0].per_group = -1; },
        [&](Runs& runs) { runs.experts[0].groups = runs.experts[0].per_group = least; },
        [&](Runs& runs) { runs.experts[0].per_group = most; },
        [](Runs& runs) { runs.experts[0].groups = runs.experts[0].per_group = int64_t{1} << 32; },
        [](Runs& runs) { runs.experts[0].id = 0; },
        [](Runs& runs) { runs.experts[0].id = 3; },
        [&](Runs& runs) { runs.experts[1].id = most - 2; },
        [](Runs& runs) { runs.experts[0].row = -1; },
        [](Runs& runs) { runs.experts[1].row = 5; },
        [&](Runs& runs) { runs.experts[1].row = most - 2; },
        [](Runs& runs) { runs.experts[1].group_id = 3; },
        [](Runs& runs) { runs.experts[1].group_id = 4; },
        [](Runs& runs) { runs.experts[1].per_group = 5; },
    };
    for (const auto& change : changes) {
        Runs runs;
        change(runs);
        CHECK_THROWS(DamagedStoreError, runs.check(), error.file == "catalog.sqlite");
    }
    CHECK_THROWS(DamagedStoreError, Runs().check(8), error.problem.find("do not fit") != std::string::npos);
}

int main() {
    return run();
}
