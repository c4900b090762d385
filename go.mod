module github.com/zeoraid/raidstorage

go 1.26
