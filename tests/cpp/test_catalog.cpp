// How the catalogue's file is read while writers come and go. What is read from a whole store is in tests/embedding,
// since only Python writes stores.
#include <cerrno>
#include <memory>
#include <stdexcept>
#include <string>

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

int main() {
    return run();
}
