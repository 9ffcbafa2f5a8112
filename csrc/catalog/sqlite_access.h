// How the catalogue's SQLite file is read, by a program that never writes it.
//
// The file is in WAL mode, which SQLite opens only where it may find or make the `-wal` and `-shm` files. A reader must
// work in a read-only folder, too, so it looks first (mome_store/store/sqlite_access.py does the same):
//
//   * `-shm` is there: a writer lives, or died lately. SQLite's own protocol is used, which shares `-shm` with the
//     writer or, where nothing may be written, rebuilds the WAL's index in private memory.
//   * There is none: nobody writes. The file, and the `-wal` that a dead writer may have left, are read without locks
//     and without making files. Should a writer come meanwhile, `-shm` appears or a file's time stamp changes; what was
//     read is then thrown away and read again.
//
// Nothing else in the process may open() the file: POSIX drops all locks that a process has on a file when it closes
// any descriptor of it, SQLite's included.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace mome {

class Connection;

// A statement and its current row. It must not outlive its connection, nor the texts bound to it.
class Statement {
  public:
    Statement(const Connection& connection, const char* sql);

    // Parameters count from 1, columns from 0.
    void bind(int parameter, int64_t value);
    void bind(int parameter, std::string_view text);

    // Goes to the next row; false after the last.
    bool step();

    // A column of the row. Throws DamagedStoreError when its value is of another type.
    int64_t integer(int column) const;
    double real(int column) const;
    std::string text(int column) const;
    bool null(int column) const { return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL; }

  private:
    void expect(int column, int type) const;

    struct Finalize {
        void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
    };
    const Connection* connection_;
    std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

class Connection {
  public:
    // A database of nothing, for what SQL can do without a file.
    static Connection in_memory();

    void execute(const char* sql) const;

  private:
    friend class Statement;
    friend void read_catalog(const std::filesystem::path&, const std::function<void(const Connection&)>&);

    Connection(std::filesystem::path path, const std::string& uri, const char* vfs);

    // Keeps closing from removing a WAL without a whole commit in it, which a writer may just have taken up.
    void keep_wal() const;

    // Throws what an SQLite result code means: ReadError or DamagedStoreError, of the connection's file.
    [[noreturn]] void fail(int code) const;

    struct Close {
        void operator()(sqlite3* database) const { sqlite3_close(database); }
    };
    std::filesystem::path path_;
    std::unique_ptr<sqlite3, Close> database_;
};

// Calls `query` with the catalogue at `path` in one read transaction. `query` may be called several times; what it
// found in the last call is consistent.
void read_catalog(const std::filesystem::path& path, const std::function<void(const Connection&)>& query);

}  // namespace mome
