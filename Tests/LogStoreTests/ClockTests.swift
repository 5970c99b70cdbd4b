import Glibc
import Testing

@testable import LogStore

@Suite struct ClockTests {
  @Test("a clock that is before 1970, or absurdly far ahead, gives a time that can be added to")
  func impossible() {
    func read(_ seconds: Int, _ nanoseconds: Int = 999_999_999) -> UInt64 {
      microseconds(since1970: timespec(tv_sec: seconds, tv_nsec: nanoseconds))
    }
    #expect(read(1_700_000_000, 1_999) == 1_700_000_000_000_001)
    for seconds in [-1, -1_000_000_000_000, .min] { #expect(read(seconds) == 0) }
    #expect(read(0, 0) == 0)
    for seconds in [253_402_300_799, 253_402_300_800, 900_000_000_000_000_000, .max] {
      #expect(read(seconds) == 253_402_300_799_999_999, "\(seconds)")
    }
  }

  @Test("a clock that was set back is reported, also before anything is appended, and times do not go back")
  func setBack() async throws {
    let directory = TemporaryDirectory()
    let before = try LogStore.open(directory.path, options: smallSegments())
    try await before.append(Append(event("a")))
    #expect(before.clockLeadMicroseconds == 0)
    try await before.close()
    // Its clock is years behind.
    let store = try LogStore.open(directory.path, options: smallSegments(), disk: AdvisedDisk(isSlow: false))
    let year: UInt64 = 365 * 86_400 * 1_000_000
    #expect(store.clockLeadMicroseconds > year)
    try await store.append(Append(event("a")))
    #expect(store.clockLeadMicroseconds > year)
    let times = try store.reader.events(from: 0, limit: 2).map(\.timestampMicroseconds)
    #expect(times[0] == times[1])
    try await store.close()
    let after = try LogStore.open(directory.path, options: smallSegments())
    #expect(after.clockLeadMicroseconds == 0, "it ends by itself")
    try await after.close()
  }
}
