package director

// JournalSize is for tests of a journal that is full.
var JournalSize = &journalSize
