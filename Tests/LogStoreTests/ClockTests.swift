import Testing

@testable import LogStore

@Suite struct ClockTests {
  @Test("a clock that was set back is told, also before anything is appended, and times do not go back")
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
